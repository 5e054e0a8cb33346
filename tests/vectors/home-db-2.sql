-- Packs: files under packs/, each a run of sealed chunks, written once and flushed before its row exists.
create table pack(
  id integer primary key,
  name text not null unique,        -- file name without the suffix
  size integer not null             -- bytes
) strict;

-- The chunk index: where each sealed chunk lies.
create table chunk(
  id blob primary key,              -- keyed hash of the content, 32 bytes
  pack integer not null references pack(id),
  offset integer not null,          -- bytes from the start of the pack
  stored integer not null,          -- bytes sealed
  size integer not null,            -- bytes of content
  form integer not null,            -- how it is sealed: manifest.AEGIS ...
  sealed blob not null,             -- hash of the sealed bytes, 32 bytes
  key blob not null                 -- the chunk's own key, wrapped, 48 bytes
) without rowid, strict;

-- Space of forgotten chunks that is still to be given back to the file system.
create table freed(
  pack integer not null references pack(id),
  offset integer not null,
  size integer not null,            -- bytes
  sum blob not null,                -- row_sum of the above
  primary key(pack, offset)
) without rowid, strict;

-- Versions taken in. An asset of a ledger names one by its manifest commitment.
create table version(
  ref blob primary key,             -- manifest commitment, 32 bytes
  manifest blob not null,           -- the head, sealed under the asset key
  source blob,                      -- keyed hash of the paths it was taken from
  taken_ms integer not null,
  sum blob not null                 -- row_sum of the above
) without rowid, strict;
create index version_source on version(source, taken_ms);

-- Key ring: the random key of each version, wrapped. Deleting the row forgets the version.
create table asset_key(
  ref blob primary key,             -- manifest commitment, 32 bytes
  key blob not null                 -- wrapped, 72 bytes
) without rowid, strict;

-- Stat cache: what the file system said of each entry when the version was taken, sealed, in pages that
-- follow the order of the manifest.
create table scan(
  ref blob not null,
  page integer not null,
  entries blob not null,
  sum blob not null,                -- row_sum of the above
  primary key(ref, page)
) strict;

-- Intakes begun and not ended: their packs without a row are leftovers of a crash.
create table intake(
  prefix text primary key,          -- packs of this intake are named prefix-worker-number
  begun_ms integer not null,
  sum blob not null                 -- row_sum of the above
) without rowid, strict;

-- Signed transactions on their way into a ledger.
create table outbox(
  tx_id blob primary key,           -- 32 bytes
  quorum blob not null,             -- 32 bytes
  envelope blob not null,           -- canonical bytes
  signatures blob not null,         -- canonical list of signatures
  valid_until integer not null,     -- block time in ms after which it may not be ordered
  state text not null,              -- queued, sent, final, refused, expired
  added_ms integer not null,
  sum blob not null                 -- row_sum of the above
) without rowid, strict;
create index outbox_state on outbox(state, added_ms);

-- What stays at home of an asset version: card, terms, score card, fingerprint, with the salts of the
-- commitments on the ledger. Sealed under the home's data key.
create table document(
  asset blob not null,              -- 32 bytes
  version integer not null,         -- 0 for what belongs to the asset as a whole
  kind text not null,               -- nonce, manifest, card, policy, report, fingerprint
  salt blob not null,               -- of its commitment, 32 bytes; the manifest's own hash
  body blob not null,               -- wrapped
  sum blob not null,                -- row_sum of the above
  primary key(asset, version, kind)
) without rowid, strict;
create index document_salt on document(salt);

-- Local names for ids: the only names that resolve for recipients, members and trust.
create table petname(
  name text primary key,
  kind text not null,               -- idao, quorum, asset, ...
  id blob not null,                 -- 32 bytes
  sum blob not null                 -- row_sum of the above
) without rowid, strict;

-- When something last happened here: backup-made, backup-verified.
create table moment(
  what text primary key,
  at_ms integer not null,
  sum blob not null                 -- row_sum of the above
) without rowid, strict;
