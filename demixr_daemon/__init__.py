"""Demixr for beets: separate the tracks of a music library into stems.

    pipeline      the spine: one track in, one published stem set out
    stems         a stem set on disk: names, manifest, how it follows its track
    publishing    how a folder of stems comes into being: whole, in one step
    library       what the beets library records of a stem set
    planning      what is to be done with tracks of the library
    following     stems follow their track
    console       what ``beet demix`` tells
    settings      what can be set, with defaults and ranges
    configuration the beets configuration as this program reads it
    errors        what can go wrong, as one tree
    cli/          the ``demixr`` command; see its own map
    daemon        the service: looks at what comes in, lets jobs run
    intake/       what brings work in: watched folders, a file of URLs
    jobs/         durable jobs: download → import → separate → record
    worker/       the processes that do the daemon's work
    web/          the page: library, player, jobs
    separation/   decode → resample → chunks → networks → Wiener → overlap-add → encode; see its own map

The beets plugin is ``beetsplug.demix``. Weights and their catalogue are ``demixr_models``: in the sources, ``models/``.
"""
