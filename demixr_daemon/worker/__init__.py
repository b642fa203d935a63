"""The processes that do the daemon's work; ``python -m demixr_daemon.worker``.

    __main__      requests and answers: lines of JSON
    importing     the process that keeps the library: beets' importer, looking tracks up, recording stems
    staging       copies of what arrived, for that
    unfinished    what becomes of an import that was killed
    separating    the process that separates: the model stays loaded between tracks
"""
