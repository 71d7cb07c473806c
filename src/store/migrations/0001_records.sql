-- One table per record kind: key columns, the columns lists are filtered by, and the record itself as JSON (`body`) or,
-- where it holds secrets, as JSON under AES-256-GCM (`sealed`). EUIs and hashes are lower-case hex, states are the names
-- of their variants, times are microseconds since the Unix epoch.

-- What the file itself must prove at every opening.
CREATE TABLE store_check (
    name   TEXT NOT NULL PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE device_profile (
    tenant TEXT NOT NULL,
    id     TEXT NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE device (
    dev_eui TEXT NOT NULL PRIMARY KEY,
    tenant  TEXT NOT NULL,
    profile TEXT NOT NULL,
    model   TEXT NOT NULL,
    body    TEXT NOT NULL,
    FOREIGN KEY (tenant, profile) REFERENCES device_profile (tenant, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX device_by_tenant ON device (tenant, dev_eui);
CREATE INDEX device_by_profile ON device (tenant, profile, dev_eui);

CREATE TABLE device_tag (
    dev_eui TEXT NOT NULL REFERENCES device (dev_eui) ON DELETE CASCADE,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (dev_eui, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX device_tag_by_value ON device_tag (name, value, dev_eui);

CREATE TABLE device_status (
    dev_eui TEXT NOT NULL PRIMARY KEY REFERENCES device (dev_eui) ON DELETE CASCADE,
    body    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE device_keys (
    dev_eui TEXT NOT NULL PRIMARY KEY REFERENCES device (dev_eui) ON DELETE CASCADE,
    sealed  BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_state (
    dev_eui TEXT NOT NULL PRIMARY KEY REFERENCES device (dev_eui) ON DELETE CASCADE,
    sealed  BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
    dev_eui TEXT NOT NULL PRIMARY KEY REFERENCES device (dev_eui) ON DELETE CASCADE,
    sealed  BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE gateway (
    eui  TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE gateway_status (
    eui  TEXT NOT NULL PRIMARY KEY REFERENCES gateway (eui) ON DELETE CASCADE,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Refers to no gateway: the air a deleted gateway used stays used.
CREATE TABLE air_ledger (
    gateway  TEXT NOT NULL,
    sub_band INTEGER NOT NULL,
    body     TEXT NOT NULL,
    PRIMARY KEY (gateway, sub_band)
) STRICT, WITHOUT ROWID;

CREATE TABLE multicast_group (
    tenant TEXT NOT NULL,
    id     TEXT NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE image (
    tenant TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (tenant, sha256)
) STRICT, WITHOUT ROWID;

CREATE TABLE image_bytes (
    tenant TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    bytes  BLOB NOT NULL,
    PRIMARY KEY (tenant, sha256),
    FOREIGN KEY (tenant, sha256) REFERENCES image (tenant, sha256) ON DELETE CASCADE
) STRICT;

-- `active`: a campaign executes the task. `sealed`: its seed; the body holds none.
CREATE TABLE task (
    id     TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    state  TEXT NOT NULL,
    active INTEGER NOT NULL,
    sealed BLOB,
    body   TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX task_by_tenant ON task (tenant, id);

CREATE TABLE task_image (
    task   TEXT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    tenant TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (task, sha256),
    FOREIGN KEY (tenant, sha256) REFERENCES image (tenant, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX task_image_by_image ON task_image (tenant, sha256, task);

-- Refers to no device: what became of a device in an ended task outlives the device.
CREATE TABLE task_device (
    task     TEXT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    dev_eui  TEXT NOT NULL,
    state    TEXT NOT NULL,
    reason   TEXT,
    sequence INTEGER NOT NULL,
    body     TEXT NOT NULL,
    PRIMARY KEY (task, dev_eui)
) STRICT, WITHOUT ROWID;
CREATE INDEX task_device_by_state ON task_device (task, state);
CREATE INDEX task_device_by_sequence ON task_device (task, sequence);
CREATE INDEX task_device_by_device ON task_device (dev_eui, task);

CREATE TABLE wave (
    task   TEXT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (task, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE distribution_session (
    task   TEXT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (task, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE mc_group (
    task   TEXT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (task, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE request (
    tenant      TEXT NOT NULL,
    request_id  TEXT NOT NULL,
    method      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    response    BLOB NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (tenant, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX request_by_time ON request (at);
