"""How good a model separates: ``demixr evaluate`` and ``benchmarks.quality``.

    command    the ``demixr evaluate`` sub-command
    songs      songs with their true stems: a MUSDB-shaped folder
    scores     plain SDR and BSS Eval v4 of one song
    systems    what is compared: models as a user runs them, and the unseparated mixture
    report     medians over songs, the table, the JSON
    plots      boxes over songs, spectrograms of stem and reference
"""
