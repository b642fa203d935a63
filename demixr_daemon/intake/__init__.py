"""What brings work in. Each module waits for nothing and is asked by a loop.

    scan          what lies in a watched folder, and whether it still changes
    watch         watched folders: when to look
    queue_file    the text file of URLs: which lines are new
    youtube       a URL → its tracks, and a track → a tagged audio file; the face of what follows
    downloader    the process of its own that yt-dlp runs in: a track, and who else is asked
    playlists     a URL → the tracks behind it
    session       yt-dlp, set up
    reasons       what yt-dlp's errors mean: why, what would help, and whether another try can
    kept          what was downloaded → the audio file that is kept: remuxed, tagged, with its cover
"""
