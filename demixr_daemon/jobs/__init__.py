"""Durable jobs: what was asked for is done once, whatever dies meanwhile.

    view       what others see: rows, and what can be asked for
    listing    looking, and no more: rows and counts
    database   the tables, in SQLite or PostgreSQL, and the queues of dbos in the same database
    work       asking: add, separate, cancel, retry; looking; clearing away
    ledger     how a stage keeps the record of its job
    stages     what is done: download → import → separate → record
    turns      how that goes, whatever the stage: room on the disk, errors, another try
    workflow   who does it when: dbos hands out the stages, and takes over those of a dead worker
    presence   which daemons are at work on this machine
    child      a process that does the work, seen from here

Each stage is a workflow of its own and hands the job over to the next one's queue: the job's row and the next workflow are
written in one transaction. A stage is safe to repeat and begins anew after a crash.
"""
