-- Whom images are believed from, and what each device model demands.

CREATE TABLE trusted_key (
    tenant TEXT NOT NULL,
    id     TEXT NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE image_policy (
    tenant TEXT NOT NULL,
    model  TEXT NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (tenant, model)
) STRICT, WITHOUT ROWID;
