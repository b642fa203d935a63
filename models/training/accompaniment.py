"""Made accompaniments: a song's drums, bass and other, written by MMA as MIDI and played by FluidSynth."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import mido
import numpy as np
import soundfile
from numpy.typing import NDArray

from models.training.synthesizer import synthesized

RATE_HZ = 44100
DRUM_CHANNEL = 9
DRUM_KITS = (0, 0, 0, 8, 16, 16, 24, 25, 25, 32)
BASS_PROGRAMS = (32, 33, 33, 33, 34, 34, 35, 36, 37, 38, 38, 39, 39)
# General MIDI programs an accompaniment is likely to use; the choirs (52-54) and the voice lead (85) are left out,
# because they are too near to what the vocals network must find.
OTHER_PROGRAMS = (*range(0, 8), *range(16, 32), 27, 29, 30, 29, 30, 48, 49, 50, 51, 56, 60, 61, 62, 63, 64, 65, 66,
                  68, 71, 73, 80, 81, 82, 84, 87, *range(88, 91), 93, 95, 104, 11, 12, 46)  # fmt: skip
MELODY_PROGRAMS = (0, 4, 11, 22, 26, 27, 29, 30, 40, 56, 65, 66, 68, 71, 73, 79, 80, 81, 82, 84, 87)
PROGRESSIONS = (
    "C G Am F", "Am F C G", "C Am F G", "C F G F", "Am G F G", "Am Dm E7 Am", "C G F C", "Dm7 G7 CM7 CM7",
    "C7 C7 F7 C7 G7 F7 C7 G7", "Am C G D", "Am Em F G", "F G Em Am", "C Bb F C", "Am Am F E7", "CM7 Em7 FM7 G7sus",
)  # fmt: skip
SCALE_SEMITONES = (0, 2, 4, 7, 9)  # the major pentatonic of the key: fits every progression above well enough


def groove_names(mma_library: Path) -> list[str]:
    """The names of all grooves in MMA's library folder, sorted, so that a seed chooses the same ones everywhere."""
    names: set[str] = set()
    for path in mma_library.rglob("*.mma"):
        text = path.read_text(encoding="latin-1")
        names.update(re.findall(r"^\s*DefGroove\s+(\S+)", text, re.MULTILINE | re.IGNORECASE))
    return sorted(name for name in names if "metronome" not in name.lower())


def _mma_text(grooves: list[str], duration_s: float, rng: np.random.Generator) -> tuple[str, float, int]:
    """An MMA song of about ``duration_s``: its text, its tempo in beats a minute and its key in semitones above C."""
    tempo_bpm = float(rng.integers(72, 168))
    key_semitones = int(rng.integers(-5, 7))
    bars = max(2, round(duration_s * tempo_bpm / 60 / 4))
    lines = [f"RndSeed {rng.integers(1 << 31)}", f"Tempo {tempo_bpm:.0f}", f"Transpose {key_semitones}"]
    progression: list[str] = []
    for bar in range(bars):
        if bar % 8 == 0:
            lines.append(f"Groove {rng.choice(grooves)}")
            progression = str(rng.choice(PROGRESSIONS)).split()
        lines.append(f"{bar + 1} {progression[bar % len(progression)]}")
    return "\n".join(lines) + "\n", tempo_bpm, key_semitones


def _compose(work: Path, grooves: list[str], duration_s: float, rng: np.random.Generator) -> tuple[mido.MidiFile, int]:
    """A song MMA accepts (a few grooves of its library need files it does not ship: then others are drawn)."""
    score, midi = work / "song.mma", work / "song.mid"
    for _ in range(20):
        text, _, key_semitones = _mma_text(grooves, duration_s, rng)
        score.write_text(text)
        midi.unlink(missing_ok=True)
        subprocess.run(["mma", "-w", str(score), "-f", str(midi)], check=False, capture_output=True, timeout=120)
        if midi.exists():
            return mido.MidiFile(midi), key_semitones
    raise RuntimeError("mma made no MIDI file in 20 tries; is the Debian package mma installed?")


def _melody(ticks_per_beat: int, end_tick: int, key_semitones: int, rng: np.random.Generator) -> mido.MidiTrack:
    """A wandering lead line, so that the vocals network does not take every melody for a voice."""
    track = mido.MidiTrack([mido.Message("program_change", channel=15, program=int(rng.choice(MELODY_PROGRAMS)))])
    degree, rest_ticks, tick = int(rng.integers(0, 10)), 0, 0
    while tick < end_tick:
        length = int(ticks_per_beat * rng.choice([0.5, 0.5, 1, 1, 1.5, 2]))
        if rng.random() < 0.2:
            rest_ticks += length
        else:
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, 12))
            pitch = 60 + key_semitones + 12 * (degree // 5) + SCALE_SEMITONES[degree % 5]
            velocity = int(rng.integers(70, 115))
            track.append(mido.Message("note_on", channel=15, note=pitch, velocity=velocity, time=rest_ticks))
            track.append(mido.Message("note_off", channel=15, note=pitch, time=length))
            rest_ticks = 0
        tick += length
    return track


def _group(track: mido.MidiTrack) -> str | None:
    """The target that a track of MMA's song belongs to; None for the track of tempo and time signatures."""
    channels = {message.channel for message in track if hasattr(message, "channel")}
    if not channels:
        return None
    if DRUM_CHANNEL in channels:
        return "drums"
    programs = [message.program for message in track if message.type == "program_change"]
    name = track.name.lower()
    if name.startswith(("bass", "walk")) or (programs and all(32 <= program < 40 for program in programs)):
        return "bass"
    return "other"


def _revoiced(track: mido.MidiTrack, group: str, drums_channel: int, rng: np.random.Generator) -> mido.MidiTrack:
    """The track with another instrument (always for drums, else mostly) and with drum notes left to ring.

    MMA ends each drum note after one tick, which a soundfont that listens to note-offs would play as a click.
    """
    choice = {"drums": DRUM_KITS, "bass": BASS_PROGRAMS, "other": OTHER_PROGRAMS}[group]
    program = int(rng.choice(choice)) if drums_channel == DRUM_CHANNEL or group != "drums" else 0
    change = group == "drums" or rng.random() < 0.7
    result, waited_ticks = mido.MidiTrack(), 0
    for message in track:
        waited_ticks += message.time
        ends_note = message.type == "note_off" or (message.type == "note_on" and message.velocity == 0)
        if group == "drums" and ends_note:
            continue
        changed = {"time": waited_ticks}
        if group == "drums" and hasattr(message, "channel"):
            changed["channel"] = drums_channel
        if change and message.type == "program_change":
            changed["program"] = program
        result.append(message.copy(**changed))
        waited_ticks = 0
    return result


def _play(midi: mido.MidiFile, soundfont: Path, work: Path, rng: np.random.Generator) -> NDArray[np.float32]:
    """FluidSynth's sound of ``midi``, ``(samples, 2)`` at 44.1 kHz, with a random room."""
    midi_path, wav_path = work / "part.mid", work / "part.wav"
    midi.save(midi_path)
    reverb = rng.random() < 0.6
    command = ["fluidsynth", "-ni", "-q", "-r", str(RATE_HZ), "-g", "0.5", "-R", str(int(reverb)),
               "-C", str(int(rng.random() < 0.3)), "-o", "synth.dynamic-sample-loading=1",
               "-o", f"synth.reverb.room-size={rng.uniform(0.1, 0.8):.2f}",
               "-o", f"synth.reverb.level={rng.uniform(0.1, 0.7):.2f}",
               "-T", "wav", "-O", "float", "-F", str(wav_path), str(soundfont), str(midi_path)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    sound, _ = soundfile.read(wav_path, dtype="float32", always_2d=True)
    return np.asarray(sound, dtype=np.float32)


def _driven(sound: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """``sound`` at a peak of 0.9, half of the time soft-clipped: records are compressed, soundfonts are not."""
    sound = sound / max(float(np.abs(sound).max()), 1e-6)
    if rng.random() < 0.5:
        drive = np.float32(rng.uniform(1.0, 5.0))
        sound = np.tanh(drive * sound) / np.tanh(drive)
    return np.asarray(0.9 * sound, dtype=np.float32)


def make_accompaniment(
    work: Path,
    soundfonts: list[Path],
    grooves: list[str],
    duration_s: float,
    synth_share: float,
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float32]]:
    """One song: ``{"drums" | "bass" | "other": (samples, 2)}`` at 44.1 kHz, equally long; ``work`` holds scratch files.

    ``synth_share`` is the probability that bass, and other, are played by the synthesiser instead of a soundfont.

    A soundfont with "LV2" in its name is a drum kit whose presets sit in bank 0, away from MIDI's drum channel.
    """
    song, key_semitones = _compose(work, grooves, duration_s, rng)
    melodic = [path for path in soundfonts if "LV2" not in path.name]
    groups: dict[str, list[mido.MidiTrack]] = {"drums": [], "bass": [], "other": []}
    conductor = [track for track in song.tracks if _group(track) is None]
    drums_soundfont = soundfonts[int(rng.integers(len(soundfonts)))]
    drums_channel = 0 if "LV2" in drums_soundfont.name else DRUM_CHANNEL
    for track in song.tracks:
        group = _group(track)
        if group is not None:
            groups[group].append(_revoiced(track, group, drums_channel, rng))
    if rng.random() < 0.5:
        end_tick = max(sum(message.time for message in track) for track in song.tracks)
        groups["other"].append(_melody(song.ticks_per_beat, end_tick, key_semitones, rng))
    sounds: dict[str, NDArray[np.float32]] = {}
    for group, tracks in groups.items():
        soundfont = drums_soundfont if group == "drums" else melodic[int(rng.integers(len(melodic)))]
        part = mido.MidiFile(ticks_per_beat=song.ticks_per_beat)
        part.tracks.extend([*conductor, *tracks])
        if not tracks:
            continue
        if group != "drums" and synth_share and rng.random() < synth_share:
            sound = synthesized(part, group == "bass", rng)
        else:
            sound = _play(part, soundfont, work, rng)
        sounds[group] = _driven(sound, rng)
    length = max((len(sound) for sound in sounds.values()), default=0)
    return {group: np.pad(sound, ((0, length - len(sound)), (0, 0))) for group, sound in sounds.items()}
