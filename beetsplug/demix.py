"""Separate tracks of the library into vocals, drums, bass and other.

Stems are saved next to the original tracks and recorded in the library. Every `beet` call imports this module: what separates
(torch, and all that comes with it) is imported by the command alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import beets
from beets import ui
from beets.exceptions import UserError
from beets.plugins import BeetsPlugin
from beets.util.units import human_bytes
from beets.util.units import human_seconds as duration
from confuse import ConfigError

from demixr_daemon import configuration, following, library, stems
from demixr_daemon.console import progress_bar, stem_bytes
from demixr_daemon.errors import BusyError, DemixrError, shown
from demixr_daemon.planning import Planned, plan
from demixr_daemon.settings import BITS, DEVICES, FORMATS, QUANTIZATIONS, TARGETS, Options, section_defaults
from demixr_daemon.web import beetsweb

if TYPE_CHECKING:
    from beets.importer import ImportSession, ImportTask
    from beets.library import Album, Item, Library

    from demixr_daemon.separation.loading import LoadedModel
    from demixr_daemon.separation.models import Model

# So many tracks overtake what waits; more are a bulk that can be overtaken.
_FEW = 30


class DemixPlugin(BeetsPlugin):
    """The ``demix`` command, its fields, the import hook, and stems that follow their track."""

    item_types = library.ITEM_TYPES

    def __init__(self) -> None:
        super().__init__("demix")
        self.config.add(section_defaults())
        for stem in (*TARGETS, "instrumental"):
            self.template_fields[f"stems_{stem}"] = _field(stem)
        self._imported: list[int] = []
        self.register_listener("item_moved", self.follow)
        self.register_listener("import_task_created", self.leave_stems_alone)
        self.register_listener("album_imported", self.album_imported)
        self.register_listener("item_imported", self.item_imported)
        self.register_listener("import", self.import_done)
        self.register_listener("library_opened", beetsweb.mount)

    def commands(self) -> list[ui.Subcommand]:
        """The ``demix`` command."""
        command = ui.Subcommand("demix", help="separate tracks into vocals, drums, bass and other")
        parser = command.parser
        parser.add_album_option()
        parser.add_option("-p", "--pretend", action="store_true", help="show what would be done, and do nothing")
        parser.add_option("-f", "--force", action="store_true", default=None, help="separate again what is current")
        parser.add_option("-t", "--threads", type="int", help="CPU threads to use (default: all)")
        parser.add_option("-q", "--quiet", action="store_true", default=None, help="report failures only")
        parser.add_option("-y", "--yes", action="store_true", help="do not ask for confirmation")
        parser.add_option("--model", help="auto, a model of `demixr models list`, or a folder of weights")
        parser.add_option("--format", help=f"format of the stems: {', '.join(FORMATS)}")
        parser.add_option("--bits", help=f"bit depth of flac and wav: {', '.join(BITS)}")
        parser.add_option("--bitrate", type="int", help="kbit/s of mp3, opus and m4a stems")
        parser.add_option("--targets", help="stems to write, for example vocals,drums")
        parser.add_option("--instrumental", action="store_true", default=None, help="write the track less its vocals too")
        parser.add_option("--quantization", help=f"{' or '.join(QUANTIZATIONS)}")
        parser.add_option("--device", help=f"{' or '.join(DEVICES)}")
        parser.add_option("--niter", help="iterations of the Wiener EM, 0 to 10, or auto")
        parser.add_option("--memory", type="int", help="megabytes to stay within, where the model allows; more is faster")
        parser.add_option("--queue", action="store_true", help="let the daemon do it")
        parser.add_option("--remove", action="store_true", help="delete the stems of these tracks")
        command.func = self.command
        return [command]

    def command(self, lib: Library, opts: Any, args: list[str]) -> None:
        """``beet demix [options] QUERY``"""
        given = {key: value for key, value in vars(opts).items() if value is not None and key in section_defaults()}
        if "targets" in given:
            given["targets"] = given["targets"].replace(",", " ").split()
        self.config.set(given)
        albums = lib.albums(args) if opts.album else []
        items = [item for album in albums for item in album.items()] if opts.album else list(lib.items(args))
        if not items:
            raise UserError("no tracks match; try `beet ls` with the same query")
        try:
            if opts.remove:
                self.remove(lib, items, pretend=opts.pretend, yes=opts.yes)
            elif opts.queue:
                if opts.pretend or opts.yes or self.few(items) or ui.input_yn(f"Queue {len(items)} tracks (Y/n)?"):
                    asked = {key: value for key, value in given.items() if key != "quiet"}
                    self.hand_over(items, asked, pretend=opts.pretend)
            else:
                self.separate(lib, items, pretend=opts.pretend, yes=opts.yes)
        except DemixrError as error:
            raise UserError(str(error)) from error
        except KeyboardInterrupt:
            self._log.warning("interrupted; what is done is kept")
            raise SystemExit(130) from None

    def separate(self, lib: Library, items: Sequence[Item], *, pretend: bool = False, yes: bool = True) -> None:
        """Plan, ask, and do.

        :raises DemixrError: a setting or the model is at fault.
        :raises UserError: at the end, if any track failed.
        """
        settings = configuration.of(beets.config)
        options, model = settings.options, settings.store().find(settings.options.model)
        actions = plan(items, model, options, force=self.config["force"].get(bool))
        if pretend:
            for action in actions:
                verb = "fail" if action.failed else "skip" if action.current else "demix"
                ui.print_(f"{verb}: {shown(action.item.filepath)} ({action.reason or 'stems are current'})")
        elif yes or self.confirmed(actions, options):
            self.run(lib, actions, model, options)

    def hand_over(self, items: Sequence[Item], options: Mapping[str, Any] | None = None, *, pretend: bool = False) -> None:
        """``--queue``: let the daemon separate these tracks, now or when it runs.

        :param options: what was asked for on the command line; the rest is as the daemon's configuration says.
        :raises DemixrError: a setting is wrong, or the jobs cannot be written.
        """
        settings = configuration.of(beets.config)
        if pretend:
            for item in items:
                ui.print_(f"queue: {shown(item.filepath)}")
            return
        from demixr_daemon.jobs.database import Database
        from demixr_daemon.jobs.work import Jobs

        work = Jobs(Database(settings.daemon.jobs_url, settings.state_dir))
        work.separate([item.id for item in items if item.id], options=dict(options or {}), hurried=len(items) <= _FEW)
        if not self.config["quiet"].get(bool):
            self._log.info("{} tracks queued; `demixr status` shows them, `demixr run` is what does them", len(items))

    def few(self, items: Sequence[Item]) -> bool:
        """Whether they are so few that nobody needs to be asked."""
        threshold = self.config["warning_threshold"].get(int)
        return not threshold or len(items) <= threshold

    def confirmed(self, actions: Sequence[Planned], options: Options) -> bool:
        """Ask, if it is a great deal of work."""
        work = [action.item for action in actions if not action.current and not action.failed]
        if self.few(work):
            return True
        needed = sum(stem_bytes(item, options) for item in work)
        free = shutil.disk_usage(work[0].filepath.parent).free
        ui.print_(f"{len(work)} tracks, {duration(sum(item.length for item in work))} of audio, will take about "
                  f"{human_bytes(needed)} of disk; {human_bytes(free)} are free.")  # fmt: skip
        return ui.input_yn("Separate them (Y/n)?")

    def run(self, lib: Library, actions: Sequence[Planned], model: Model, options: Options) -> None:
        """Do what was planned; one bad track does not stop the rest.

        :raises UserError: at the end, if any track failed.
        """
        done, skipped, failed = 0, 0, 0
        loaded = None
        if any(not action.current and not action.failed for action in actions):
            from demixr_daemon import pipeline

            loaded = pipeline.load(model, options)
        for action in actions:
            try:
                if action.failed:
                    raise DemixrError(action.reason)
                if loaded is None or action.current:
                    assert action.current is not None
                    library.record(lib, action.item, action.current)  # a set that was published, then not recorded
                    skipped += 1
                    continue
                place = f"{done + skipped + failed + 1}/{len(actions)}" if len(actions) > 1 else ""
                if self.demix(lib, action, loaded, options, place):
                    done += 1
                else:
                    skipped += 1
            except BusyError as error:
                skipped += 1
                self._log.warning("{}", error)
            except DemixrError as error:
                failed += 1
                self._log.error("{}", error)
        summary = f"{done} done, {skipped} skipped, {failed} failed"
        if failed:
            raise UserError(f"demix: {summary}")
        if not self.config["quiet"].get(bool):
            self._log.info("{}", summary)

    def demix(self, lib: Library, action: Planned, model: LoadedModel, options: Options, place: str) -> bool:
        """Separate one track and record its stems; False if another process has done so since the plan was made."""
        from demixr_daemon import pipeline

        item = action.item
        current, _ = pipeline.check(item.filepath, model.model, options, action.folder)
        if current and not self.config["force"].get(bool):
            library.record(lib, item, current)
            return False
        quiet = self.config["quiet"].get(bool)
        name = shown(f"{item.artist} - {item.title}" if item.artist and item.title else item.filepath.name)
        label = f"{place} {name}".strip()
        begun = time.monotonic()
        with progress_bar(label, item, hidden=quiet) as progress:
            made = pipeline.demix(item.filepath, model, options, folder=action.folder, progress=progress)
        library.record(lib, item, made)
        if not quiet:
            took = time.monotonic() - begun
            gain = "" if made.gain == 1.0 else f", all turned down to {made.gain:.3f} so that none clips"
            seconds = made.source.samples / made.source.rate_hz
            self._log.info("{}: {} in {:.1f} s ({:.1f}x real time){}", label, ", ".join(made.files), took,
                           seconds / took, gain)  # fmt: skip
        return True

    def remove(self, lib: Library, items: Sequence[Item], *, pretend: bool, yes: bool) -> None:
        """``beet demix --remove``"""
        with_stems = [item for item in items if following.present_folder(item) or item.get("stems")]
        if not with_stems:
            self._log.info("none of these tracks has stems")
            return
        for item in with_stems:
            if pretend or not yes:
                folder = following.present_folder(item)
                ui.print_(f"remove: {shown(folder)}" if folder else f"forget: {item}")
        if pretend or (not yes and not ui.input_yn(f"Delete the stems of {len(with_stems)} tracks (Y/n)?")):
            return
        failed = 0
        for item in with_stems:
            try:
                if folder := following.present_folder(item):
                    stems.remove(folder)
                library.clear(lib, item)
            except DemixrError as error:
                failed += 1
                self._log.error("{}", error)
        if failed:
            raise UserError(f"demix: {len(with_stems) - failed} removed, {failed} failed")
        self._log.info("{} removed", len(with_stems))

    def album_imported(self, lib: Library, album: Album) -> None:
        """The files of an album are where they belong."""
        self._imported += [item.id for item in album.items() if item.id]

    def item_imported(self, lib: Library, item: Item) -> None:
        """A singleton is where it belongs."""
        self._imported += [item.id] if item.id else []

    def import_done(self, lib: Library, paths: list[bytes]) -> None:
        """With ``auto``: separate what was imported, or let the daemon; whatever fails, it is imported.

        Here and not when each was imported: that is in a thread of the importer, which asks its questions meanwhile and does
        not hear of Ctrl-C.
        """
        ids = self._imported.copy()
        self._imported.clear()
        try:
            auto = self.config["auto"].as_choice([True, False, "queue"])
            items = [item for number in ids if (item := lib.get_item(number))] if auto else []
            if items and auto == "queue":
                self.hand_over(items)
            elif items:
                self.separate(lib, items)
        except (DemixrError, UserError, ConfigError) as error:
            self._log.error("{}", error)
        except KeyboardInterrupt:
            self._log.warning("interrupted; what is done is kept")
            raise SystemExit(130) from None

    def follow(self, item: Item, source: bytes, destination: bytes) -> None:
        """The track moved, its stems go with it."""
        try:
            following.follow(item, source, destination)
        except DemixrError as error:
            self._log.error("{}", error)

    def leave_stems_alone(self, session: ImportSession, task: ImportTask) -> list[ImportTask] | None:
        """Stems inside an imported folder are not tracks."""
        return following.leave_alone(task)


def _field(stem: str) -> Callable[[Item], str]:
    return lambda item: library.stem_path(item, stem)
