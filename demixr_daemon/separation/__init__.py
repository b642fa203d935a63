"""The engine: arrays and files, nothing of beets.

    decode      any audio file → float32 blocks at its own rate, and its fingerprint
    channels    mixdown to stereo, resampling in a stream
    excerpt     any part of an audio file, exact to the sample
    stft        the transform and its inverse in a stream
    openunmix   the networks as published: load, script, export
    networks    one of them, cut where its LSTM begins and ends; in float32
    int8        the same in 8-bit integers
    lstm        the recurrent kernel of that
    chunks      a track through the LSTMs, chunk by chunk
    wiener      multichannel Wiener EM in fused kernels
    separator   blocks in, stem blocks out; the ``Backend`` interface
    background  a generator in a thread of its own
    compiled    how numba compiles the kernels
    models      weights on this machine: catalogue, downloads, own folders
    transfer    one file over HTTP, resumed
    loading     weights → backend, through the cache of quantized weights
    files       one audio file, written block by block
    encode      stem blocks → audio files whose sum is the mixture

    from pathlib import Path
    from demixr_daemon.pipeline import demix
    from demixr_daemon.separation.loading import load
    from demixr_daemon.separation.models import ModelStore
    from demixr_daemon.settings import Options

    model = load(ModelStore().find("auto"))
    stem_set = demix(Path("01 Title.flac"), model, Options(format="wav"))
"""

import os

# torch 2.13 prints a deprecation notice to stderr, from C++, whenever quantized weights are unpacked; set before it loads.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
