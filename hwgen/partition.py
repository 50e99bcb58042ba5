"""Which nodes of a file the host runs: none where the engine can run all of them, else as few as the compiler lets it.

What the importer or the quantizer refuses is cut off, in front of the engine or behind it, whichever takes fewer multiply-accumulates with
it; then the rest is tried again, until it is taken whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from . import quantizer
from .errors import HwgenError, ModelError, ShapeError
from .hostparts import BLOCKS, PREFIX, SHARE, SMALL_SHARE, SUFFIX, HostParts
from .importer import Checked, Imported, Status, Verdict, check_file, check_model, read_any
from .importer.cut import Division, Uncut, Waist, Whole
from .ops import Attention
from .ops.operator import SUPPORTED
from .ops.routing import ABSENT

ROUNDS = 24         # of cutting and trying again
NOWHERE = -2        # place of a border in front of everything; that of the inputs is -1
RETREAT = 0.25      # of the multiply-accumulates of the file: what borders may take beyond the first cut


def partitioned(path: str | Path, shapes: dict[str, tuple[int, ...]] | None, allow_host: bool, say: Callable[[str], None]) -> Checked:
    """`check_model`, and what there are no steps for is left to the host (`Imported.host`); ``allow_host``: however much that is.

    Why a file is not taken, or cannot be read, is its ``error``. An input that says which tokens are there may as well say which are not.
    """
    checked = _partitioned(path, shapes, allow_host, say, 1)
    if checked.error is None or checked.padding is None:
        return checked
    reverse = _partitioned(path, shapes, allow_host, say, 0)
    return checked if reverse.error is not None else reverse


def _partitioned(path: str | Path, shapes: dict[str, tuple[int, ...]] | None, allow_host: bool, say: Callable[[str], None], shown: int) -> Checked:
    """shown: what such an input holds where a token is there."""
    try:
        checked = _taken(check_model(path, shapes, shown))
    except (ModelError, ShapeError) as error:
        checked = Checked((), False, error)
    if checked.error is None or any(ABSENT in verdict.reason for verdict in checked.verdicts):
        return checked
    search: _Search | None = None
    try:
        whole = Whole(read_any(path, shapes, shown))
        say("look for what the host can run")
        search = _Search(whole)
        division, found = search.run(checked)
        _not_too_much(division.host, found, allow_host)
    except Uncut as reason:
        return replace(checked, error=_extended(search and search.within or checked.error, reason.message), padding=whole.file.padding)
    except (ModelError, ShapeError):                        # the file cannot be read, whatever is cut off
        return checked
    return _whole(whole, division, checked, found)


def import_parts(path: str | Path, shapes: dict[str, tuple[int, ...]] | None, allow_host: bool, say: Callable[[str], None]) -> Imported:
    """`partitioned`; raises its error."""
    checked = partitioned(path, shapes, allow_host, say)
    if checked.imported is None:
        raise checked.error or ModelError("the file is not taken", where=str(path))
    return checked.imported


def _taken(checked: Checked) -> Checked:
    """With the error of the quantizer, where the importer has none."""
    if checked.imported is not None:
        try:
            quantizer.accept(checked.imported.model)
        except ModelError as error:
            for cause in (error, *error.others):
                cause.hint = cause.hint or SUPPORTED
            return replace(checked, ok=False, error=error, imported=None)
    return checked


class _Search:
    """waist, behind: where the file is cut at the moment; first: multiply-accumulates that the first cut gave to the host; within: what is wrong
    behind inputs that only the host can read (token ids)."""

    def __init__(self, whole: Whole):
        self.whole = whole
        self.waist: Waist | None = None
        self.behind: frozenset[str] = frozenset()
        self.first: int | None = None
        self.within: HwgenError | None = None

    def run(self, checked: Checked) -> tuple[Division, Checked]:
        """The cut, and what is left of the file as imported. Raises Uncut."""
        added: dict[str, str] = {}
        for _ in range(ROUNDS):
            self._cut_off({added.get(name, name) for name in self._refused(checked)})
            division = self.whole.divide(self.waist, self.behind)
            on_host = sum(part.macs for part in division.host.parts.values())
            self.first = on_host if self.first is None else self.first
            if on_host - self.first > RETREAT * division.host.macs:
                raise Uncut("")
            checked, added = _taken(check_file(division.middle)), division.added
            if checked.error is None:
                return division, checked
            if self.whole.strange and not self.behind:
                self.within = checked.error
        raise Uncut("")

    def _refused(self, checked: Checked) -> set[str]:
        """Names of the nodes there are no steps for: those of the file that an operator was made of, moves before and behind it left out."""
        errors = [] if checked.error is None else [checked.error, *checked.error.others]
        blamed = {error.node for error in errors if error.node is not None}
        parts = {verdict.node for verdict in checked.verdicts if verdict.status is Status.FUSED and verdict.into in blamed}
        return {verdict.node for verdict in checked.verdicts if verdict.status is Status.UNSUPPORTED} | blamed | parts - self.whole.graph.moves

    def _cut_off(self, refused: set[str]) -> None:
        """Move a border beyond nodes that are refused, or just up to the last of them in front: it may be there for what it reads only."""
        place, before = self.whole.place, self.waist.place if self.waist else NOWHERE
        found = sorted((name for name in refused if name in place and name not in self.behind and place[name] > before), key=place.__getitem__)
        if not found and (self.waist or not self.whole.strange):
            raise Uncut("")
        front = [name for name in found if self.whole.is_front(name)]
        self.behind = self.whole.followers(self.behind.union(*(self.whole.chain(name) for name in found if name not in front)))
        if front or not found:
            least = place[front[-2]] if len(front) > 1 else before + 1
            self.waist = self._waist(least, place[front[-1]] if front else len(place), before)

    def _waist(self, least: int, last: int, before: int) -> Waist:
        """The last one that has place ``least`` and not place ``last`` in front of it; else the first with that. What only moves or scales its
        value goes in front, too: the engine's input comes as it is used."""
        waists = [waist for waist in self.whole.waists if waist.place > before]
        up_to = [waist for waist in waists if least <= waist.place < last]
        beyond = [waist for waist in waists if waist.place >= last]
        if last == len(self.whole.order):                       # what the inputs are is refused
            up_to = waists[:1]
        found = up_to[-1] if up_to else beyond[0] if beyond else None
        joint = self._joint(least, last, before)
        if joint is not None and (found is None or self._macs(found) - self._macs(joint) > SHARE * self.whole.up_to[-1]):
            return joint
        if found is None:
            raise Uncut("")
        for waist in waists:
            if waist.place > found.place and self.whole.graph.moves.issuperset(self.whole.order[found.place + 1:waist.place + 1]):
                found = waist
        return found


    def _joint(self, least: int, last: int, before: int) -> Waist | None:
        """The same of several values that are tokens: for networks that read a second sequence further behind."""
        joints = [joint for joint in self.whole.joints if joint.place > before]
        if last == len(self.whole.order):
            return joints[0] if joints else None
        up_to = [joint for joint in joints if least <= joint.place < last]
        return up_to[-1] if up_to else next((joint for joint in joints if joint.place >= last), None)

    def _macs(self, waist: Waist) -> int:
        """Multiply-accumulates in front of it."""
        return self.whole.up_to[waist.place + 1]


def _not_too_much(host: HostParts, taken: Checked, allow_host: bool) -> None:
    """Raises Uncut when the host would do more than it may unasked."""
    model = taken.model
    blocks = 0 if model is None else sum(isinstance(node, Attention) for node in model.tasks[0].nodes)
    limit = SHARE if blocks >= BLOCKS else SMALL_SHARE
    if host.share > limit and not allow_host:
        parts = " and ".join(f"{len(part.nodes)} nodes {where} ({part.names}), {100 * part.macs / host.macs:.3g} % of the file's multiply-"
                             f"accumulates," for where, part in (("in front", host.prefix), ("behind", host.suffix)) if part)
        raise Uncut(f"the host can run {parts} but more than {100 * limit:g} % is left to it only with --allow-host (allow_host=True)")


def _extended(error: HwgenError, reason: str) -> HwgenError:
    """With what a cut would cost, or why there is none."""
    if reason:
        error.hint = f"{error.hint}; {reason}" if error.hint else reason
    return error


def _whole(whole: Whole, division: Division, refused: Checked, taken: Checked) -> Checked:
    """Verdicts on every node of the file, and the network with its host parts."""
    reasons = {verdict.node: verdict.reason for verdict in refused.verdicts if verdict.status is Status.UNSUPPORTED}
    known = {verdict.node: verdict for verdict in taken.verdicts}
    verdicts = []
    for name, kind in whole.graph.kinds.items():
        file = PREFIX if name in division.front else SUFFIX if name in division.behind else None
        if file is not None:
            verdicts.append(Verdict(name, kind, Status.HOST, into=file, reason=reasons.get(name, "")))
        else:
            verdicts.append(known.get(name) or Verdict(name, kind, Status.FOLDED, reason=whole.graph.folded.get(name, "constant")))
    every = tuple(verdicts)
    imported = taken.imported and replace(taken.imported, verdicts=every, host=division.host,
                                          float_file=taken.imported.float_file or whole.file.float_file)
    return replace(taken, verdicts=every, imported=imported)
