"""Demixr for beets: separate the tracks of a music library into stems.

    pipeline      the spine: one track in, one published stem set out
    stems         a stem set on disk: names, manifest, atomic publish
    library       what the beets library records of a stem set
    settings      what can be set, with defaults and ranges
    errors        what can go wrong, as one tree
    cli           the ``demixr`` command
    separation/   decode → resample → chunks → networks → Wiener → overlap-add → encode; see its own map

The beets plugin is ``beetsplug.demix``. Weights and their catalogue are ``demixr_models``: in the sources, ``models/``.
"""
