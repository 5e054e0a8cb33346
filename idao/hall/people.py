"""People: members of an iDAO, quorums that it trusts, and petnames for ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from idao import identity
from idao.crypto import phrase
from idao.errors import NotFound, UsageError, VerificationFailed
from idao.hall.governance import check_role, check_weight
from idao.hall.routing import trust_links
from idao.home import History, entropy
from idao.ledger import idao as rules
from idao.ledger.assets import ASSET_KINDS
from idao.model import ID_KINDS, parse_id, show_id
from idao.store import petnames
from idao.store.petnames import Petname

if TYPE_CHECKING:
    from idao.dao import Dao

NAME_MAX = 64
"""Characters of a petname, as of the file of a member's key."""
RESERVED = ("me", "self", "stake")
"""Words that mean something where a petname may stand."""


class People:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    # --- members

    def members(self, idao: str = "") -> list[dict[str, Any]]:
        """The members of this iDAO, or of another one on the ledger."""
        dao = self._dao
        whose = dao.resolve_person(idao) if idao else dao.me
        here = {self._own_id(name) for name in dao.home.members()} | {dao.me}
        return [
            {
                "member": show_id("idao", m.member),
                "name": dao.petname(m.member) or "",
                "role": m.role,
                "weight": m.weight,
                "since": m.since,
                "key_here": m.member in here,
            }
            for m in dao.state().scan(rules.Member, whose)
        ]

    def _own_id(self, name: str) -> bytes:
        return identity.idao_id(self._dao.home.history(name).inception)

    def add_member(
        self, name: str, *, idao: str = "", role: str = "member", weight: int = 1, dry: bool = False
    ) -> dict[str, Any]:
        """Proposes an iDAO as member and votes yes; where the owner decides alone, that is all it takes.

        Without `idao` a new identity is made, whose key stays in this home. Called again after a crash,
        it goes on with the identity it made.
        """
        check_name(name)
        check_role(role)
        check_weight(weight)
        kept = name in self._dao.home.members()
        known = parse_id("idao", idao) if idao else self._own_id(name) if kept else None
        with self._dao.home_db(readonly=True) as db:
            petnames.check(db, Petname(name, "idao", known or b""))
        if dry:
            return self._planned(name, known, role, weight)
        if known is None or (kept and known == self._own_id(name)):
            known = self._own_member(name)
        shown = self._decide(_title("add", known), ("member.add", rules.AddMember(known, role, weight)))
        with self._dao.home_db() as db:
            petnames.put(db, Petname(name, "idao", known))
        return {**self._member(name, known), "role": role, "weight": weight, **shown}

    def _planned(self, name: str, known: bytes | None, role: str, weight: int) -> dict[str, Any]:
        plan = {"name": name, "role": role, "weight": weight, "dry_run": True}
        if known is None:
            return {"member": None, **plan}
        if self._dao.state().get(rules.Identity, known) is not None:
            from idao.hall.governance import Wish

            wish = Wish(add=(f"{show_id('idao', known)}:{role}:{weight}",))
            self._dao.governance.propose(_title("add", known), wish, dry=True)
        return {"member": show_id("idao", known), **plan}

    def _own_member(self, name: str) -> bytes:
        """A member whose key this home keeps, registered on the ledger; made if there is none."""
        home, keys = self._dao.home, self._dao.keys()
        with home.exclusive(self._dao.wait_s):
            if not home.has_member_key(name):
                self._require_unknown(name)
                seed = phrase.seed_from(phrase.phrase_from(entropy(phrase.ENTROPY_BYTES)))
                history = History(identity.incept(seed), ())
                home.add_member(name, history, phrase.first_key(seed), keys.kek)
        idao = self._own_id(name)
        if self._dao.state().get(rules.Identity, idao) is None:
            history = home.history(name)
            body = rules.Register(history.inception, history.events)
            self._dao.submit([("idao.register", body)], self._dao.actor(name))
        return idao

    def _require_unknown(self, name: str) -> None:
        """A history without its key is what a cut short addition left, unless the ledger knows it by now."""
        kept = name in self._dao.home.members()
        if kept and self._dao.state().get(rules.Identity, self._own_id(name)) is not None:
            raise VerificationFailed(
                f"the key of member '{name}' is missing: keys/members/{name}.key",
                hint="restore it from a backup, or choose another name",
                code="damaged",
            )

    def _decide(self, title: str, action: tuple[str, Any]) -> dict[str, Any]:
        """Proposes one action and votes yes. The proposal's id, state, tally and code."""
        shown = self._dao.governance.carry(self._dao.me, title, [action])
        return {key: shown[key] for key in ("proposal", "state", "tally", "choice", "code")}

    def _member(self, name: str, idao: bytes) -> dict[str, Any]:
        here = any(self._own_id(n) == idao for n in self._dao.home.members())
        return {"member": show_id("idao", idao), "name": name, "key_here": here or idao == self._dao.me}

    def find_member(self, text: str) -> bytes:
        """A member of this iDAO by any name that `members` shows, the name of a key here, or full id."""
        home = self._dao.home
        if text in home.members():
            found = self._own_id(text)
        else:
            mine = text == self._dao.petname(self._dao.me)  # one's own name is no petname, and is shown
            found = self._dao.me if mine else self._dao.resolve_person(text)
        if self._dao.state().get(rules.Member, self._dao.me, found) is None:
            raise NotFound(f"'{text}' is no member of this iDAO", hint="see 'idao member list'")
        return found

    def remove_member(self, text: str, *, dry: bool = False) -> dict[str, Any]:
        """Proposes to remove a member and votes yes. A key kept here stays."""
        found = self.find_member(text)
        name = self._dao.petname(found) or text
        shown = self._member(name, found)
        if dry:
            from idao.hall.governance import Wish

            self._dao.governance.propose(_title("remove", found), Wish(remove=(shown["member"],)), dry=True)
            return {**shown, "dry_run": True}
        return {
            **shown,
            **self._decide(_title("remove", found), ("member.remove", rules.RemoveMember(found))),
        }

    # --- trust

    def find_quorum(self, text: str) -> bytes:
        """A full quorum id, the name or id prefix of a ledger of this home, or a petname."""
        if text.startswith("quorum:") and len(text) == len("quorum:") + 52:
            return parse_id("quorum", text)
        with self._dao.home_db(readonly=True) as db:
            named = petnames.find(db, text)
        if named is not None and named.kind == "quorum":
            return named.id
        names = self._dao.home.config.get("ledgers", {})
        own = [
            (parse_id("quorum", f"quorum:{p.stem}"), str(names.get(p.stem, "")))
            for p in sorted(self._dao.home.ledgers_folder.glob("*.db"))
        ]
        try:
            return self._dao.resolve("quorum", text, lambda: own)
        except NotFound as e:
            e.hint = "give the full id, or name it: idao name add NAME quorum:…"
            raise

    def trusted(self) -> list[dict[str, Any]]:
        """The quorums that this iDAO trusts, and for what: the links in force, or those of one ledger."""
        if self._dao.named_quorum:
            return [self._link(link) for link in self._dao.state().scan(rules.TrustLink, self._dao.me)]
        return [self._link(link) for _, link in sorted(trust_links(self._dao).items())]

    def trust_joined(self, quorum: bytes) -> None:
        """A link with everything to a quorum just made or joined, unless there is one with any scope."""
        if quorum not in trust_links(self._dao):
            self._dao.submit([("trust.add", rules.AddTrust(quorum, (), (), 1))])

    def _link(self, link: rules.TrustLink) -> dict[str, Any]:
        quorum = show_id("quorum", link.quorum)
        names = self._dao.home.config.get("ledgers", {})
        with self._dao.home_db(readonly=True) as db:
            called = [p.name for p in petnames.listed(db) if (p.kind, p.id) == ("quorum", link.quorum)]
        return {
            "quorum": quorum,
            "name": called[0] if called else str(names.get(quorum.partition(":")[2], "")),
            "kinds": list(link.kinds),
            "categories": list(link.categories),
            "weight": link.weight,
            "since": link.since,
        }

    def trust(
        self, text: str, *, kinds: Sequence[str], categories: Sequence[str], weight: int, dry: bool = False
    ) -> dict[str, Any]:
        """Adds a trust link, or gives the one there is a new scope and weight."""
        for kind in kinds:
            if kind not in ASSET_KINDS:
                raise UsageError(f"'{kind}' is not a kind of asset", hint=f"one of: {', '.join(ASSET_KINDS)}")
        for category in categories:
            if not (category.isascii() and category.replace("-", "").isalnum() and len(category) <= NAME_MAX):
                raise UsageError(f"a category is one word: '{category}'")
        if not 1 <= weight <= rules.TRUST_WEIGHT_MAX:
            raise UsageError(f"a weight is a whole number from 1 to {rules.TRUST_WEIGHT_MAX}")
        scope = tuple(sorted(set(kinds))), tuple(sorted(set(categories)))
        if max(map(len, scope)) > rules.TRUST_SCOPE_MAX:
            raise UsageError(f"a trust link names at most {rules.TRUST_SCOPE_MAX} categories")
        quorum = self.find_quorum(text)
        body = rules.AddTrust(quorum, *scope, weight)
        if dry:
            return {**self._link(rules.TrustLink(self._dao.me, quorum, *scope, weight, 0)), "dry_run": True}
        done = self._dao.submit([("trust.add", body)])[0]
        link = self._dao.state().need(rules.TrustLink, self._dao.me, quorum)
        return {**self._link(link), "status": self._dao.stage(done.receipt.height)}

    def distrust(self, text: str, *, dry: bool = False) -> dict[str, Any]:
        """Removes the trust link wherever it counts: on the ledger in use and on the quorum's own."""
        quorum, me = self.find_quorum(text), self._dao.me
        ledgers = [self._dao]
        own = show_id("quorum", quorum)
        path = self._dao.home.ledgers_folder / f"{own.partition(':')[2]}.db"
        if not self._dao.named_quorum and path.exists() and path != self._dao.ledger_path():
            ledgers.append(self._dao.on(own))
        linked = [dao for dao in ledgers if dao.state().get(rules.TrustLink, me, quorum) is not None]
        if not linked:
            raise NotFound(f"no trust link to '{text}'", hint="see 'idao trust list'")
        shown: dict[str, Any] = {"quorum": own, "removed": not dry}
        for dao in [] if dry else linked:
            done = dao.submit([("trust.remove", rules.RemoveTrust(quorum))])[0]
            shown["status"] = dao.stage(done.receipt.height)
        return shown

    # --- petnames

    def names(self) -> list[dict[str, Any]]:
        with self._dao.home_db(readonly=True) as db:
            return [_named(p) for p in petnames.listed(db)]

    def add_name(self, name: str, text: str, *, dry: bool = False) -> dict[str, Any]:
        """Gives an id of any kind a local name."""
        check_name(name)
        kind = text.partition(":")[0]
        if kind not in ID_KINDS:
            raise UsageError(f"not a full id: '{text}'", hint="such as idao:… or quorum:…")
        new = Petname(name, kind, parse_id(kind, text))
        with self._dao.home_db(readonly=dry) as db:
            petnames.check(db, new)
            if not dry:
                petnames.put(db, new)
        return _named(new)

    def name_for(self, idao: bytes, wanted: str, claimed: str) -> str | None:
        """The petname for somebody new: `wanted`, or else the one it has, or else after what it claims.

        A claim is a suggestion alone: letters and digits of ASCII, with a number where that name is another's
        already. None when nothing is left of it. `UsageError` when `wanted` stands for another.
        """
        with self._dao.home_db(readonly=True) as db:
            if wanted:
                check_name(wanted)
                petnames.check(db, Petname(wanted, "idao", idao))
                return wanted
            known = petnames.listed(db)
        if own := next((n.name for n in known if n.id == idao), None):
            return own
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", claimed).strip("-")[: NAME_MAX - 4].rstrip("-")
        taken = {*RESERVED, *(n.name for n in known), str(self._dao.home.get("idao", "name", ""))}
        if not plain.replace("-", "").replace("_", ""):
            return None
        names = [plain, *(f"{plain}-{n}" for n in range(2, len(taken) + 3))]
        return next(n for n in names if n not in taken)

    def remove_name(self, name: str, *, dry: bool = False) -> dict[str, Any]:
        with self._dao.home_db(readonly=dry) as db:
            found = petnames.find(db, name)
            if found is None:
                raise NotFound(f"no petname '{name}'", hint="see 'idao name list'")
            if not dry:
                petnames.remove(db, name)
        return {**_named(found), "removed": not dry}


def _title(verb: str, member: bytes) -> str:
    """Says who by the beginning of the id: a petname is nobody else's business."""
    return f"{verb} member {show_id('idao', member)[:17]}"


def check_name(name: str) -> None:
    """One word that can be told from an id, an option and our own words."""
    plain = name.replace("-", "").replace("_", "")
    if not plain.isalnum() or len(name) > NAME_MAX or name.startswith("-") or name in RESERVED:
        raise UsageError(
            f"a petname is 1 to {NAME_MAX} letters, digits, - and _: '{name[:80]}'",
            hint=f"{', '.join(RESERVED)} are taken" if name in RESERVED else None,
        )


def _named(p: Petname) -> dict[str, Any]:
    return {"name": p.name, "kind": p.kind, "id": show_id(p.kind, p.id)}
