"""The page: a library to look through, a player for stems, the jobs as they run. Nothing here separates or imports torch.

    app         the blueprint put together; the server
    settings    what can be set
    guard       who may ask: hosts, origins, the token, the headers of every answer
    catalogue   what the page sees of the beets library; it only reads
    lanes       the stems of a track side by side: blocks of audio, sample by sample together
    peaks       their waveforms, computed once
    covers      small pictures of albums
    downloads   stems, sets, and mixes as they are heard
    work        jobs: live, add, upload, cancel, retry
    beetsweb    the same blueprint inside `beet web`
    static/     the page itself: ES modules, CSS, vendored libraries with their licences
"""
