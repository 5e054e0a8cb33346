"""What a running node does for its owner without being asked, because only the owner's key can sign it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from idao import validatorkeys
from idao.errors import IdaoError, Pending
from idao.ledger import genesis
from idao.ledger.faults import Report as FaultReport
from idao.ledger.faults import is_recorded
from idao.model import Fault, show_id
from idao.node import calling
from idao.store.ledger import LedgerStore

if TYPE_CHECKING:
    from idao.dao import Dao


def chores(dao: Dao, faults: Callable[[], list[tuple[bytes, Fault]]]) -> Sequence[Callable[[], None]]:
    """Each is called now and again, in a thread; what one finds to do, it signs and does not wait for."""
    from idao.hall.reattest import Reattest

    return (
        lambda: take_seats(dao),
        lambda: carry_through(dao),
        Report(dao, faults),
        Reattest(dao),
        lambda: retire_keys(dao),
    )


def _groups(dao: Dao) -> Iterator[Dao]:
    """The group ledgers of the home, each to be used in this thread alone; nothing waits for finality."""
    for path in sorted(dao.home.ledgers_folder.glob("*.db")):
        try:
            with closing(LedgerStore.open(path, readonly=True)) as store:
                wanted = store.bundle.genesis.kind == genesis.GROUP and store.continued_by is None
        except IdaoError:  # damaged: the node says so, and the others go on
            continue
        if wanted:
            there = dao.on(path.stem)
            there.wait_s = 0
            try:
                yield there
            finally:
                if (opened := there.__dict__.get("store")) is not None:
                    opened.close()


def _each(dao: Dao, chore: Callable[[Dao], object]) -> None:
    """Does it for each group; what is wrong with one is raised after the others had their turn."""
    trouble = None
    for there in _groups(dao):
        try:
            chore(there)
        except IdaoError as e:
            trouble = trouble or e
    if trouble is not None:
        raise trouble


def take_seats(dao: Dao) -> None:
    """Takes the place that the members have agreed on, once the ledger here has come far enough."""
    _each(dao, lambda there: there.joining.activate())


def carry_through(dao: Dao) -> None:
    """Lets a change of the validator set take effect also where nobody else has something to say."""
    _each(dao, lambda there: there.joining.carry_through())


def retire_keys(dao: Dao) -> None:
    """Destroys validator keys that were replaced, here and in the node's memory, once their epoch is over."""
    from idao.hall import seats

    if not validatorkeys.any_replaced(dao.home):
        return

    def retire(there: Dao) -> None:
        if seats.retire(there):
            calling.ask(dao.home.path, "reload")

    _each(dao, retire)


TRIES = 10
"""A report is refused that meets another change of the set in its block: it is sent again, in another one.
What is refused so often is refused for a reason that stays, such as a bond that has been given back."""


class Report:
    """Brings proof of a lie to the ledger, where the liar's bond answers for it.

    Nobody shows it twice: what has been seen is kept here until it is on the ledger.
    """

    def __init__(self, dao: Dao, seen: Callable[[], list[tuple[bytes, Fault]]]) -> None:
        self._dao, self._seen = dao, seen
        self._open: list[tuple[bytes, Fault, int]] = []
        """(quorum, fault, how often it was sent)."""

    def __call__(self) -> None:
        """Looks at each that is open; what is wrong with one is raised after the others had their turn."""
        todo = self._open + [(quorum, fault, 0) for quorum, fault in self._seen()]
        self._open, trouble = [], None
        for quorum, fault, tries in todo:
            try:
                sent = self._bring(quorum, fault)
            except IdaoError as e:
                trouble, sent = trouble or e, True
            if sent is not None and tries + sent < TRIES:
                self._open.append((quorum, fault, tries + sent))
        if trouble is not None:
            raise trouble

    def _bring(self, quorum: bytes, fault: Fault) -> bool | None:
        """Whether a report was sent now, or one waits still; None once the ledger has it."""
        there = self._dao.on(show_id("quorum", quorum))
        there.wait_s = 0
        try:
            if is_recorded(there.state(), fault):
                return None
            if any(tx.envelope.kind == "fault.report" for tx in there.queued()):
                return False
            with contextlib.suppress(Pending):  # it is in the outbox
                there.submit([("fault.report", FaultReport(fault))])
            return True
        finally:
            if (opened := there.__dict__.get("store")) is not None:
                opened.close()
