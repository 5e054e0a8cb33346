"""`idao mint`, `idao class …`, `idao dat …`, `idao account …`."""

from __future__ import annotations

from typing import Annotated, Any

from idao import home as homes
from idao import ui
from idao.commands import open_dao
from idao.grammar import App, Argument, Option
from idao.model import show_id

mint = App()
class_app = App(help="DAT classes: terms, shares, revenue.")
dat = App(help="Data Anchoring Tokens.")
account = App(help="The double-entry book of accounts.")

_Asset = Annotated[str, Argument(metavar="ASSET", help="Id, prefix or name; ASSET@2 names a version.")]
_Dat = Annotated[str, Argument(metavar="DAT", help="Id or prefix.")]
_Class = Annotated[str, Argument(metavar="CLASS", help="Id or prefix, or its asset's id.")]
_Who = Annotated[str, Argument(metavar="WHO", help="Full iDAO id, petname, or 'me'.")]
_Amount = Annotated[str, Argument(metavar="AMOUNT", help="Whole units.")]
_Unit = Annotated[str, Option(help="Whose credit: iDAO id, petname, 'me', or 'stake'.")]


def _planned(what: str, **plan: Any) -> bool:
    """With --dry-run: says what would be done, and that is all."""
    if ui.options.dry_run:
        ui.result({"dry_run": True, **plan}, [f"would {what}"])
    return ui.options.dry_run


@mint.command()
def _mint(
    asset: _Asset,
    class_: Annotated[str, Option("--class", help="Class that is meant, if it matters.")] = "",
    value: Annotated[str, Option(help="Quota; default: as the charter's economic model says.")] = "",
    share_ratio: Annotated[int, Option(min=0, max=2**32 - 1, help="Weight in the class's revenue.")] = 10_000,
    expires: Annotated[str, Option(help="End: RFC 3339 time, or a span such as 90d.")] = "",
    to: Annotated[str, Option(help="Who gets it: iDAO id or petname; default: you.")] = "",
) -> None:
    """Mint a Data Anchoring Token on a verified asset.

    Example: idao mint clinic --value 1000 --share-ratio 10000
    """
    from idao.hall.tokens import amount

    dao = open_dao()
    quota = amount(value, "value") if value else None
    end = homes.parse_time(expires) if expires else 0
    found, version = dao.assets.find(asset)
    if _planned(f"mint a DAT on {show_id('asset', found)}@{version}", asset=show_id("asset", found)):
        return
    data = dao.tokens.mint(asset, class_id=class_, value=quota, share_ratio=share_ratio, expire_at=end, to=to)
    ui.say(f"minted on {data['asset']}@{data['version']}: value {data['value']}, share {data['share_ratio']}")
    ui.say(f"{data['status']} at height {data['height']}")
    ui.result(data, ids=data["dats"])


# --- class ------------------------------------------------------------------------------------------


@class_app.command("create")
def _create(
    asset: _Asset,
    metadata: Annotated[str, Option(help="Where the class is described.")] = "",
    decimals: Annotated[int, Option(min=0, max=18, help="Decimals of a DAT's quota.")] = 0,
    split: Annotated[list[str] | None, Option(help="Contributor: WHO=BASISPOINTS; may repeat.")] = None,
) -> None:
    """Create the class of DATs of an asset version (ERC-8028 createClass).

    Example: idao class create clinic --split me=7000 --split ana=3000
    """
    dao = open_dao()
    found, version = dao.assets.find(asset)
    name = show_id("asset", found)
    if _planned(f"create the class of {name}@{version}", asset=name, version=version):
        return
    data = dao.tokens.create_class(asset, metadata=metadata, decimals=decimals, split=tuple(split or ()))
    ui.result(data, ids=data["class"])


@class_app.command("list")
def _classes() -> None:
    """List the classes on the ledger.

    Example: idao class list
    """
    found = open_dao().tokens.classes()
    rows = [(c["class"], c["asset"], str(c["version"]), c["total_share"]) for c in found]
    lines = ui.table(("class", "asset", "version", "total share"), rows)
    ui.result({"classes": found}, lines, quiet=[c["class"] for c in found])


@class_app.command("show")
def _show_class(class_: _Class) -> None:
    """Show a class.

    Example: idao class show class:…
    """
    data = open_dao().tokens.show_class(class_)
    ui.result(data, _lines(data), quiet=[data["class"]])


@class_app.command("approve")
def _approve(
    class_: _Class, operator: _Who, off: Annotated[bool, Option("--off", help="Take it back.")] = False
) -> None:
    """Let an operator use your quota in a class (ERC-8028 approveForClass).

    Example: idao class approve class:… ana
    """
    dao = open_dao()
    found = show_id("class", dao.tokens.find_class(class_))
    who = show_id("idao", dao.resolve_person(operator))
    what = f"{'take back' if off else 'give'} approval for {who} in {found}"
    if _planned(what, **{"class": found, "operator": who, "approved": not off}):
        return
    data = dao.tokens.approve(class_, operator, not off)
    ui.result(data, ids=data["class"])


@class_app.command("settle")
def _settle(class_: _Class, amount: _Amount, unit: _Unit = "me") -> None:
    """Pay revenue to a class, divided among its shares (ERC-8028 settleRevenue).

    Example: idao class settle class:… 500 --unit me
    """
    from idao.hall.tokens import amount as whole

    dao = open_dao()
    number = whole(amount)
    found = show_id("class", dao.tokens.find_class(class_))
    if _planned(f"pay {number} to {found}", **{"class": found, "value": str(number)}):
        return
    data = dao.tokens.settle(class_, number, unit)
    ui.result(data, ids=data["class"])


# --- dat --------------------------------------------------------------------------------------------


@dat.command("list")
def _dats(all: Annotated[bool, Option("--all", help="Also those of others.")] = False) -> None:
    """List your DATs.

    Example: idao dat list --json
    """
    found = open_dao().tokens.list_dats(everyone=all)
    rows = [(d["dat"], d["asset"], d["value"], str(d["share_ratio"]), d["expires"] or "never") for d in found]
    lines = ui.table(("dat", "asset", "value", "share", "expires"), rows)
    ui.result({"dats": found}, lines, quiet=[d["dat"] for d in found])


@dat.command("show")
def _show_dat(dat: _Dat) -> None:
    """Show a DAT, with its ERC-8028 views.

    Example: idao dat show dat:… --json
    """
    data = open_dao().tokens.show_dat(dat)
    ui.result(data, _lines({k: v for k, v in data.items() if k != "erc8028"}), quiet=[data["dat"]])


@dat.command("transfer")
def _transfer(dat: _Dat, to: _Who) -> None:
    """Give a DAT to another iDAO (ERC-8028 transferToken).

    Example: idao dat transfer dat:… ana
    """
    dao = open_dao()
    found, who = show_id("dat", dao.tokens.find_dat(dat)), show_id("idao", dao.resolve_person(to))
    if _planned(f"give {found} to {who}", dat=found, to=who):
        return
    data = dao.tokens.transfer(dat, to)
    ui.result(data, ids=data["dat"])


@dat.command("transfer-value")
def _transfer_value(dat: _Dat, target: _Dat, amount: _Amount) -> None:
    """Move quota to another DAT of the same class (ERC-8028 transferValue).

    Example: idao dat transfer-value dat:a… dat:b… 100
    """
    from idao.hall.tokens import amount as whole

    dao = open_dao()
    number = whole(amount)
    found, other = (show_id("dat", dao.tokens.find_dat(d)) for d in (dat, target))
    if _planned(f"move {number} from {found} to {other}", dat=found, to=other):
        return
    data = dao.tokens.transfer_value(dat, target, number)
    ui.result(data, ids=data["dat"])


@dat.command("use")
def _use(
    dat: _Dat,
    amount: _Amount,
    metric: Annotated[str, Option(help="What was counted.")] = "uses",
    receipt: Annotated[str, Option(help="Hash of the usage receipt, 64 hex digits.")] = "",
) -> None:
    """Record a use: takes it off the quota (ERC-8028 recordUsage).

    Example: idao dat use dat:… 10 --metric rows
    """
    from idao.hall.tokens import amount as whole
    from idao.hall.tokens import receipt_hash

    dao = open_dao()
    number, usage = whole(amount), receipt_hash(receipt)
    found = show_id("dat", dao.tokens.find_dat(dat))
    if _planned(f"use {number} of {found}", dat=found, amount=str(number)):
        return
    data = dao.tokens.use(dat, number, metric, usage)
    ui.say(f"{data['value']} left")
    ui.result(data, ids=data["dat"])


@dat.command("claim")
def _claim(
    dat: _Dat, unit: _Unit = "me", to: Annotated[str, Option(help="Who is paid; default: you.")] = ""
) -> None:
    """Take what a DAT has earned (ERC-8028 claim).

    Example: idao dat claim dat:… --unit me
    """
    dao = open_dao()
    found = show_id("dat", dao.tokens.find_dat(dat))
    if _planned(f"claim the revenue of {found}", dat=found):
        return
    data = dao.tokens.claim(dat, unit, to)
    ui.say(f"claimed {data['claimed']['value']}")
    ui.result(data, ids=data["dat"])


# --- account ----------------------------------------------------------------------------------------


@account.command("list")
def _accounts() -> None:
    """List every account of the book: debits equal credits in each unit.

    Example: idao account list
    """
    found = open_dao().tokens.accounts()
    rows = [(a["kind"], a["holder"], a["unit"], a["value"]) for a in found]
    ui.result({"accounts": found}, ui.table(("kind", "holder", "unit", "balance"), rows))


@account.command("issue")
def _issue(
    amount: _Amount,
    to: Annotated[str, Option(help="Who gets it; default: you.")] = "",
    memo: Annotated[str, Option(help="What for.")] = "",
) -> None:
    """Issue credit in your own name: your promise, not money.

    Example: idao account issue 1000
    """
    from idao.hall.tokens import amount as whole

    dao = open_dao()
    number = whole(amount)
    if _planned(f"issue {number}", value=str(number)):
        return
    data = dao.tokens.issue(number, to, memo)
    ui.result(data, ids=data["tx"])


@account.command("retire")
def _retire(amount: _Amount, memo: Annotated[str, Option(help="What for.")] = "") -> None:
    """Take back own credit that you hold.

    Example: idao account retire 100
    """
    from idao.hall.tokens import amount as whole

    dao = open_dao()
    number = whole(amount)
    if _planned(f"retire {number}", value=str(number)):
        return
    data = dao.tokens.retire(number, memo)
    ui.result(data, ids=data["tx"])


@account.command("transfer")
def _pay(
    to: _Who, amount: _Amount, unit: _Unit = "me", memo: Annotated[str, Option(help="What for.")] = ""
) -> None:
    """Pay another iDAO.

    Example: idao account transfer ana 50 --unit me
    """
    from idao.hall.tokens import amount as whole

    dao = open_dao()
    number = whole(amount)
    who = show_id("idao", dao.resolve_person(to))
    if _planned(f"pay {number} to {who}", to=who, value=str(number)):
        return
    data = dao.tokens.pay(to, number, unit, memo)
    ui.result(data, ids=data["tx"])


def _lines(data: dict[str, Any]) -> list[str]:
    width = max(map(len, data))
    return [f"{key.ljust(width)}  {_plain(value)}" for key, value in data.items()]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value) or "none"
    if isinstance(value, dict):
        return " ".join(f"{v}" for v in value.values())
    return "never" if value is None else str(value)
