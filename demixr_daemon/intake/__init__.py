"""What brings work in.

    scan          what lies in a watched folder, and whether it still changes
    watch         watched folders: when to look
    queue_file    a text file of URLs, followed however it is saved
    youtube       a URL to an audio file with tags
"""
