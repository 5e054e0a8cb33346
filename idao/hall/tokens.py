"""DAT classes, DATs, and the book of accounts: what a person does with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idao.errors import NotFound, Refused, UsageError
from idao.home import now_ms, show_time
from idao.ledger import accounts, assets, dats, usage
from idao.ledger.state import State
from idao.model import INT_MAX, show_id

if TYPE_CHECKING:
    from idao.dao import Dao, Done

STAKE = "stake"


class Tokens:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    # --- finding

    def _own_dats(self) -> list[tuple[bytes, str]]:
        return [(d.id, "") for d in self._dao.state().scan(dats.Dat)]

    def find_dat(self, text: str) -> bytes:
        dat = self._dao.resolve("dat", text, self._own_dats)
        if self._dao.state().get(dats.Dat, dat) is None:
            raise NotFound(f"no DAT '{text}' on this ledger", hint="see 'idao dat list'")
        return dat

    def find_class(self, text: str) -> bytes:
        """A class by its id or prefix, or by its asset."""
        state = self._dao.state()
        if text.startswith("asset:"):
            return dats.class_id_of(self._dao.quorum, *self._dao.assets.find(text))
        found = self._dao.resolve("class", text, lambda: [(c.id, "") for c in state.scan(dats.Class)])
        if state.get(dats.Class, found) is None:
            raise NotFound(f"no class '{text}' on this ledger", hint="see 'idao class list'")
        return found

    def unit(self, text: str) -> bytes:
        """'stake', or the iDAO whose credit is meant: a full id, a petname, or 'me'."""
        return accounts.STAKE if text == STAKE else self._dao.resolve_person(text)

    # --- classes

    def create_class(
        self, asset: str, *, metadata: str = "", decimals: int = 0, split: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """ERC-8028 createClass for the newest (or named) version of an asset."""
        asset_id, version = self._dao.assets.find(asset)
        parts = tuple(sorted(self._share(s) for s in split))
        body = dats.Create(asset_id, version, metadata, decimals, b"", parts)
        done = self._of_asset(("class.create", body), "its members make one: idao class create {asset}")
        found = dats.class_id_of(self._dao.quorum, asset_id, version)
        return {**self.show_class(show_id("class", found)), "status": self._dao.stage(done.receipt.height)}

    def _share(self, text: str) -> tuple[bytes, int]:
        who, equals, points = text.partition("=")
        if not equals or not points.isdigit() or not 0 < int(points) <= 10_000:
            raise UsageError(f"a split is WHO=BASISPOINTS, not '{text}'")
        return self._dao.resolve_person(who), int(points)

    def classes(self) -> list[dict[str, Any]]:
        return [self._class(self._dao.state(), c) for c in self._dao.state().scan(dats.Class)]

    def show_class(self, text: str) -> dict[str, Any]:
        state = self._dao.state()
        return self._class(state, state.need(dats.Class, self.find_class(text)))

    def _class(self, state: State, c: dats.Class) -> dict[str, Any]:
        return {
            "class": show_id("class", c.id),
            "asset": show_id("asset", c.asset),
            "version": c.version,
            "owner": show_id("idao", c.owner),
            "metadata_uri": c.metadata_uri,
            "integrity": c.integrity.hex(),
            "unit_decimals": c.unit_decimals,
            "policy": show_id("policy", c.policy),
            "split": [{"idao": show_id("idao", i), "basis_points": bp} for i, bp in c.split],
            "total_share": str(dats.active_share(state, c, now_ms())),
            "revenue": [
                {**self._unit(r.unit), "settlements": r.count} for r in state.scan(usage.Revenue, c.id)
            ],
        }

    @staticmethod
    def _unit(unit: bytes) -> dict[str, str]:
        return {"unit": STAKE if unit == accounts.STAKE else show_id("idao", unit)}

    def _of_asset(self, tx: tuple[str, dats.Create | dats.Mint], way_out: str) -> Done:
        """Submits what members of the asset's iDAO may do; the ledger's refusal does not say whose it is."""
        try:
            return self._dao.submit([tx])[0]
        except Refused as e:
            if e.code != "not-a-member":
                raise
            body = tx[1]
            owner = self._dao.state().need(assets.AssetVersion, body.asset, body.version).owner
            named = f" ({name})" if (name := self._dao.petname(owner)) else ""
            asset, whose = show_id("asset", body.asset), show_id("idao", owner) + named
            hint = way_out.format(asset=asset, me=show_id("idao", self._dao.me))
            raise Refused(
                f"{asset} belongs to the iDAO {whose}: it is for its members, and the signer is none of them",
                hint=hint, code=e.code,
            ) from e  # fmt: skip

    # --- DATs

    def mint(
        self,
        asset: str,
        *,
        class_id: str = "",
        value: int | None = None,
        share_ratio: int = 10_000,
        expire_at: int = 0,
        to: str = "",
    ) -> dict[str, Any]:
        """ERC-8028 mint on a verified asset version; creates its class if it has none."""
        asset_id, version = self._dao.assets.find(asset)
        body = dats.Mint(
            asset=asset_id,
            version=version,
            class_id=self.find_class(class_id) if class_id else None,
            to=self._dao.resolve_person(to) if to else None,
            value=value,
            share_ratio=share_ratio,
            expire_at=expire_at,
        )
        done = self._of_asset(("dat.mint", body), "its members can mint to you: idao mint {asset} --to {me}")
        state = self._dao.state()
        own = dats.class_id_of(self._dao.quorum, asset_id, version)
        made: list[dict[str, Any]] = []
        while (
            dat := state.get(dats.Dat, dats.dat_id_of(self._dao.quorum, own, done.tx, len(made)))
        ) is not None:
            made.append(self._dat(state, dat))
        status = {"status": self._dao.stage(done.receipt.height), "tx": show_id("tx", done.tx)}
        return {**made[0], **status, "dats": [d["dat"] for d in made]}

    def list_dats(self, *, everyone: bool = False) -> list[dict[str, Any]]:
        state = self._dao.state()
        return [self._dat(state, d) for d in state.scan(dats.Dat) if everyone or d.owner == self._dao.me]

    def show_dat(self, text: str) -> dict[str, Any]:
        state = self._dao.state()
        dat = self.find_dat(text)
        shown = self._dat(state, state.need(dats.Dat, dat))
        return {**shown, "erc8028": usage.to_erc8028(state, dat, now_ms())}

    def _dat(self, state: State, d: dats.Dat) -> dict[str, Any]:
        units = [r.unit for r in state.scan(usage.Revenue, d.class_id)]
        return {
            "dat": show_id("dat", d.id),
            "class": show_id("class", d.class_id),
            "asset": show_id("asset", d.asset),
            "version": d.version,
            "owner": show_id("idao", d.owner),
            "value": str(d.value),
            "share_ratio": d.share_ratio,
            "expires": show_time(d.expire_at) if d.expire_at else None,
            "expired": d.expired(now_ms()),
            "policy": show_id("policy", d.policy),
            "uses": d.uses,
            "height": d.height,
            "pending": [{**self._unit(u), "value": str(usage.pending(state, d, u))} for u in units],
        }

    def _after(self, text: str, body: tuple[str, Any]) -> dict[str, Any]:
        done = self._dao.submit([body])[0]
        status = {"status": self._dao.stage(done.receipt.height), "tx": show_id("tx", done.tx)}
        return {**self.show_dat(text), **status}

    def transfer(self, dat: str, to: str) -> dict[str, Any]:
        """ERC-8028 transferToken."""
        found = self.find_dat(dat)
        body = dats.Transfer(found, self._dao.resolve_person(to))
        return self._after(show_id("dat", found), ("dat.transfer", body))

    def transfer_value(self, source: str, target: str, value: int) -> dict[str, Any]:
        """ERC-8028 transferValue within a class."""
        found = self.find_dat(source)
        body = usage.TransferValue(found, self.find_dat(target), value)
        return self._after(show_id("dat", found), ("dat.transfer-value", body))

    def use(self, dat: str, amount: int, metric: str, receipt: bytes) -> dict[str, Any]:
        """ERC-8028 recordUsage. `receipt` is the 32-byte hash of the usage receipt."""
        found = self.find_dat(dat)
        return self._after(show_id("dat", found), ("dat.use", usage.Use(found, metric, amount, receipt)))

    def claim(self, dat: str, unit: str, to: str = "") -> dict[str, Any]:
        """ERC-8028 claim of one unit's pending revenue."""
        found = self.find_dat(dat)
        state = self._dao.state()
        chosen = self.unit(unit)
        amount = usage.pending(state, state.need(dats.Dat, found), chosen)
        body = usage.Claim(found, chosen, self._dao.resolve_person(to) if to else self._dao.me)
        after = self._after(show_id("dat", found), ("dat.claim", body))
        return {**after, "claimed": {**self._unit(chosen), "value": str(amount)}}

    def approve(self, class_id: str, operator: str, approved: bool) -> dict[str, Any]:
        """ERC-8028 approveForClass."""
        found = self.find_class(class_id)
        who = self._dao.resolve_person(operator)
        done = self._dao.submit([("class.approve", dats.Approve(self._dao.me, found, who, approved))])[0]
        return {
            "class": show_id("class", found),
            "operator": show_id("idao", who),
            "approved": approved,
            "status": self._dao.stage(done.receipt.height),
        }

    def settle(self, class_id: str, amount: int, unit: str) -> dict[str, Any]:
        """ERC-8028 settleRevenue: this iDAO pays the class."""
        found = self.find_class(class_id)
        body = usage.Settle(found, self._dao.me, self.unit(unit), amount)
        done = self._dao.submit([("class.settle", body)])[0]
        shown = self.show_class(show_id("class", found))
        paid = {**self._unit(body.unit), "value": str(amount)}
        return {**shown, "settled": paid, "status": self._dao.stage(done.receipt.height)}

    # --- accounts

    def accounts(self) -> list[dict[str, Any]]:
        """Every account of the book."""
        return [
            {
                "kind": a.kind,
                "holder": a.holder.hex()
                if a.kind in (accounts.REVENUE, accounts.DUST)
                else show_id("idao", a.holder),
                **self._unit(a.unit),
                "value": str(a.balance),
                "debit": str(a.debit),
                "credit": str(a.credit),
            }
            for a in self._dao.state().scan(accounts.Account)
        ]

    def issue(self, amount: int, to: str = "", memo: str = "") -> dict[str, Any]:
        """Issues own credit: a promise of this iDAO, not money."""
        who = self._dao.resolve_person(to) if to else self._dao.me
        return self._moved(
            "account.issue", accounts.Issue(self._dao.me, who, amount, memo), amount, self._dao.me
        )

    def retire(self, amount: int, memo: str = "") -> dict[str, Any]:
        return self._moved(
            "account.retire", accounts.Retire(self._dao.me, amount, memo), amount, self._dao.me
        )

    def pay(self, to: str, amount: int, unit: str, memo: str = "") -> dict[str, Any]:
        chosen = self.unit(unit)
        body = accounts.Transfer(self._dao.me, self._dao.resolve_person(to), chosen, amount, memo)
        return self._moved("account.transfer", body, amount, chosen)

    def _moved(self, kind: str, body: Any, amount: int, unit: bytes) -> dict[str, Any]:
        done = self._dao.submit([(kind, body)])[0]
        state = self._dao.state()
        return {
            "tx": show_id("tx", done.tx),
            **self._unit(unit),
            "value": str(amount),
            "balance": str(accounts.balance(state, (accounts.IDAO, self._dao.me), unit)),
            "status": self._dao.stage(done.receipt.height),
        }


def amount(text: str, what: str = "amount") -> int:
    """A positive integer below 2^63, in plain digits."""
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not 0 < int(text) <= INT_MAX:
        raise UsageError(f"the {what} is a whole number from 1 to 2^63 - 1, not '{text}'")
    return int(text)


def receipt_hash(text: str) -> bytes:
    """32 bytes in hexadecimal; nothing stands for 'no receipt'."""
    try:
        value = bytes.fromhex(text) if text else bytes(32)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise UsageError("a usage receipt's hash is 64 hexadecimal digits")
    return value
