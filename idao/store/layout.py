"""The tables of a ledger file, comments included: what `create` makes and an audit compares with."""

from __future__ import annotations

from idao.ledger import genesis as genesis_rules
from idao.store.tables import ddl_of

PART, PREFIX = "position >> 13", "substr(tx, 1, 8)"
"""How receipts are found by transaction: 8,192 leaves of the log after each other have an index of their own.
One index over all random ids writes a random page for each transaction, the more the longer the ledger; this
writes the few pages of its newest part, and a search asks part after part, microseconds each."""
PART_LEAVES = 1 << 13

FIXED_DDL = (
    """create table meta ( -- facts of this file
  "key" text not null, -- what
  "value" blob not null, -- its bytes
  "sum" blob not null, -- hash of both: nothing else would tell a flipped bit in them
  primary key ("key")
) strict, without rowid""",
    """create table block ( -- decided blocks
  "height" integer primary key, -- counts from 1
  "hash" blob not null, -- hash of the header
  "header" blob not null, -- canonical header
  "certificate" blob not null, -- canonical finalization of this block
  "leaf" integer not null -- position of the block's own leaf in the log
) strict""",
    "create unique index block_leaf on block (leaf)",
    """create table receipt ( -- what transactions and due actions did
  "position" integer primary key, -- position of its leaf in the log
  "height" integer not null, -- block
  "tx" blob not null, -- transaction, or proposal of a due action
  "kind" text not null, -- kind of transaction
  "ok" integer not null, -- 1 applied, 0 refused
  "leaf" blob not null -- canonical receipt
) strict""",
    f"create index receipt_tx on receipt ({PART}, {PREFIX})",
    """create table body ( -- transactions of blocks: decided ones, and those held for the next height
  "height" integer not null,
  "hash" blob not null, -- hash of the header
  "txs" blob not null -- canonical block up to its header
) strict""",
    "create index body_height on body (height)",
    """create table held ( -- what follows the transactions, of blocks held for the next height
  "height" integer not null,
  "hash" blob not null, -- hash of the header
  "rest" blob not null, -- canonical block from its header on
  primary key ("height", "hash")
) strict, without rowid""",
    """create table tx ( -- signed transactions kept of blocks whose bodies were pruned
  "height" integer not null, -- block
  "place" integer not null, -- place of its receipt among those of the block
  "id" blob not null, -- hash of the envelope
  "raw" blob not null, -- canonical signed transaction
  primary key ("height", "place")
) strict, without rowid""",
    "create unique index tx_id on tx (id)",
    """create table log_node ( -- perfect subtrees of eight leaves and more; leaves whose receipts were pruned
  "level" integer not null, -- height of the subtree
  "place" integer not null, -- index among those of its height
  "hash" blob not null, -- RFC 6962 hash
  primary key ("level", "place")
) strict, without rowid""",
    """create table state_branch ( -- branches of the state tree
  "prefix" text not null, -- hexadecimal digits from the root
  "children" blob not null, -- canonical list of its children
  primary key ("prefix")
) strict, without rowid""",
    """create table checkpoint ( -- signed heads of the log
  "height" integer primary key, -- block
  "size" integer not null, -- leaves
  "note" text not null -- C2SP checkpoint with log signatures and cosignatures
) strict""",
    """create table sign ( -- the journal: what this validator has signed, one row a slot, for ever
  "height" integer not null,
  "view" integer not null,
  "slot" text not null, -- P propose, N notarize, T finalize or nullify
  "kind" integer not null, -- kind of vote
  "digest" blob not null, -- block hash, empty for nullify
  "signature" blob not null,
  primary key ("height", "view", "slot")
) strict, without rowid""",
    """create table cert ( -- certificates held for the current height
  "height" integer not null,
  "kind" integer not null,
  "view" integer not null,
  "digest" blob not null,
  "certificate" blob not null,
  primary key ("height", "kind", "view", "digest")
) strict, without rowid""",
    """create table cosign ( -- cosignatures of the newest heads, own and others'
  "height" integer not null,
  "key" blob not null, -- validator key
  "log" blob not null, -- its signature as log
  "time_s" integer not null, -- when it signed, POSIX seconds
  "witness" blob not null, -- its cosignature
  primary key ("height", "key")
) strict, without rowid""",
)


def record_ddl() -> list[str]:
    from idao.ledger.registry import RECORDS  # every family: a reader needs none of them

    return [ddl_of(cls) for cls in (*RECORDS, *genesis_rules.RECORDS)]


def schema() -> list[str]:
    """Every statement that a fresh ledger file is made of."""
    return [*FIXED_DDL, *record_ddl()]
