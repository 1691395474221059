-- The queue and the ledger of one run folder. Times are milliseconds since the Unix epoch, money is
-- millionths of a US dollar, digests are hex. No image and no base64 is ever kept here.

CREATE TABLE batch (
    batch       INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    manifest    TEXT,             -- relative to the run folder; NULL for standard input
    provider    TEXT NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE run (
    run         INTEGER PRIMARY KEY,
    batch       INTEGER NOT NULL REFERENCES batch,
    command     TEXT NOT NULL,
    version     TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    end_reason  TEXT
) STRICT;

CREATE TABLE worker (
    worker       INTEGER PRIMARY KEY,
    run          INTEGER NOT NULL REFERENCES run,
    token        TEXT NOT NULL UNIQUE,
    host         TEXT NOT NULL,
    pid          INTEGER NOT NULL,
    started_at   INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL,
    draining     INTEGER NOT NULL DEFAULT 0, -- a person wants it to end: it claims nothing more
    ended_at     INTEGER,          -- in order, or when it was found dead
    dead         INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE lane (
    lane          INTEGER PRIMARY KEY,
    provider      TEXT NOT NULL,
    model         TEXT NOT NULL,
    key_id        TEXT NOT NULL,
    -- What was found out about its limit, so that the next run begins near it; NULL: nothing yet.
    per_minute    REAL,
    limit_source  TEXT CHECK (limit_source IN ('stated', 'learned')),
    confidence    INTEGER,
    in_flight_max INTEGER,
    learned_at    INTEGER,
    UNIQUE (provider, model, key_id)
) STRICT;

-- How a worker's lanes are doing, for `status`. Replaced with each heartbeat, gone with the worker.
CREATE TABLE lane_state (
    worker       INTEGER NOT NULL REFERENCES worker,
    lane         INTEGER NOT NULL REFERENCES lane,
    sent_minute  INTEGER NOT NULL,     -- requests in the last 60 s
    per_minute   REAL,                 -- the believed limit; NULL: none is known yet
    limit_source TEXT NOT NULL CHECK (limit_source IN ('given', 'stated', 'learned', 'unknown')),
    in_flight    INTEGER NOT NULL,
    in_flight_max INTEGER NOT NULL,
    opens_at     INTEGER,              -- NULL: open
    why          TEXT,
    PRIMARY KEY (worker, lane)
) STRICT, WITHOUT ROWID;

-- Which models may stand in for which, for some job at least; only ever grows.
CREATE TABLE stand_in (
    batch    INTEGER NOT NULL REFERENCES batch,
    model    TEXT NOT NULL,
    fallback TEXT NOT NULL,
    PRIMARY KEY (batch, model, fallback)
) STRICT, WITHOUT ROWID;

-- Numbers that never repeat, whatever is deleted or restored.
CREATE TABLE sequence (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO sequence VALUES ('epoch', 0);

-- What claiming and settling touch: narrow on purpose. What only people read is in job_detail
-- and revision.
CREATE TABLE job (
    job          INTEGER PRIMARY KEY,
    batch        INTEGER NOT NULL REFERENCES batch,
    name         TEXT NOT NULL,
    ordinal      INTEGER NOT NULL,
    origin       TEXT NOT NULL CHECK (origin IN ('manifest', 'reroll')),
    parent       INTEGER REFERENCES job,
    state        TEXT NOT NULL CHECK (state IN ('waiting', 'pending', 'running', 'succeeded', 'held',
                                                'failed', 'refused', 'skipped', 'cancelled')),
    ready        INTEGER NOT NULL DEFAULT 1 CHECK (ready IN (0, 1)), -- 0: pending, but snoozed until available_at
    available_at INTEGER NOT NULL DEFAULT 0,
    snoozed_at   INTEGER NOT NULL DEFAULT 0, -- when that was decided: if it lies ahead, the clock went back
    priority     INTEGER NOT NULL DEFAULT 0,
    model        TEXT NOT NULL,            -- of the present revision: the lane is chosen by it
    fallbacks    TEXT,                     -- JSON array of models that may stand in for it; NULL without any
    revision     INTEGER NOT NULL,         -- number of the present revision, from 1
    reservation  INTEGER,                  -- NULL: no known price
    estimate     INTEGER,
    worker       INTEGER REFERENCES worker, -- the lease: who, and its epoch; NULL unless running
    epoch        INTEGER,
    attempt      INTEGER,                  -- the attempt under way
    transient    INTEGER NOT NULL DEFAULT 0, -- allowances used by the present revision
    no_image     INTEGER NOT NULL DEFAULT 0,
    lost         INTEGER NOT NULL DEFAULT 0,
    lost_alone   INTEGER NOT NULL DEFAULT 0, -- those of them that ran alone, with nobody else to blame
    spared       INTEGER NOT NULL DEFAULT 0 CHECK (spared IN (0, 1)), -- an end was put down to the lane
    -- 0: untried; 1: lost or spared before, behind those: another one tells more about a lane in trouble;
    -- 2: lost so often (queue::LOST_UNTIL_ALONE) that it runs alone
    turn         INTEGER NOT NULL GENERATED ALWAYS AS ((lost > 0 OR spared) + (lost >= 3)) VIRTUAL,
    needs        INTEGER NOT NULL DEFAULT 0, -- dependencies that have not succeeded yet
    cancel       TEXT CHECK (cancel IN ('person', 'manifest')), -- asked for while running, or who cancelled it
    in_manifest  INTEGER NOT NULL DEFAULT 1 CHECK (in_manifest IN (0, 1)),
    UNIQUE (batch, name)
) STRICT;

-- A claim reads the head of job_ready and never sees a snoozed job; what has become due is
-- promoted from job_snoozed first.
CREATE INDEX job_ready   ON job (batch, model, turn, priority DESC, ordinal) WHERE state = 'pending' AND ready = 1;
-- For lanes that stand in for another model.
CREATE INDEX job_ready_elsewhere ON job (batch, model, turn, priority DESC, ordinal)
    WHERE state = 'pending' AND ready = 1 AND fallbacks IS NOT NULL;
CREATE INDEX job_snoozed ON job (available_at) WHERE state = 'pending' AND ready = 0;
CREATE INDEX job_snoozed_at ON job (snoozed_at) WHERE state = 'pending' AND ready = 0;
CREATE INDEX job_leased  ON job (worker) WHERE state = 'running';
CREATE INDEX job_listed  ON job (batch, in_manifest DESC, ordinal, job);
CREATE INDEX job_state   ON job (batch, state, ordinal) WHERE state NOT IN ('succeeded', 'pending');

CREATE TABLE job_detail (
    job        INTEGER PRIMARY KEY REFERENCES job,
    output     TEXT NOT NULL,    -- wanted name below images/, without extension
    output_key TEXT NOT NULL,    -- as a disk that ignores case sees it
    stream     INTEGER NOT NULL CHECK (stream IN (0, 1)),
    tags       TEXT NOT NULL     -- JSON object
) STRICT;
CREATE INDEX job_detail_key ON job_detail (output_key);

CREATE TABLE revision (
    job          INTEGER NOT NULL REFERENCES job,
    n            INTEGER NOT NULL,
    spec_digest  TEXT NOT NULL,
    input_digest TEXT,           -- NULL while another job's output is awaited
    spec         TEXT NOT NULL,  -- JSON: prompt, model, aspect_ratio, image_size, modalities, extra
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (job, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE reference (
    job      INTEGER NOT NULL,
    n        INTEGER NOT NULL,
    position INTEGER NOT NULL,
    kind     TEXT NOT NULL CHECK (kind IN ('file', 'url', 'job')),
    source   TEXT NOT NULL,      -- path, URL or the other job's name
    digest   TEXT,
    bytes    INTEGER,
    media    TEXT,
    PRIMARY KEY (job, n, position),
    FOREIGN KEY (job, n) REFERENCES revision (job, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE dependency (
    job   INTEGER NOT NULL REFERENCES job,
    needs INTEGER NOT NULL REFERENCES job,
    PRIMARY KEY (job, needs)
) STRICT, WITHOUT ROWID;
CREATE INDEX dependency_needs ON dependency (needs);

-- The ledger. A row is changed once, when the attempt ends, and never deleted.
CREATE TABLE attempt (
    attempt           INTEGER PRIMARY KEY AUTOINCREMENT,
    job               INTEGER NOT NULL REFERENCES job,
    revision          INTEGER NOT NULL,
    run               INTEGER NOT NULL REFERENCES run,
    lane              INTEGER NOT NULL REFERENCES lane,
    worker            INTEGER NOT NULL REFERENCES worker,
    epoch             INTEGER NOT NULL,
    alone             INTEGER NOT NULL CHECK (alone IN (0, 1)), -- nothing else of its process was under way
    outcome           TEXT NOT NULL CHECK (outcome IN ('sent', 'succeeded', 'throttled', 'transient', 'no_image',
                                                       'refused', 'failed', 'aborted', 'lost')),
    sent_at           INTEGER NOT NULL,
    ended_at          INTEGER,
    http_status       INTEGER,
    error_code        TEXT,
    error             TEXT,
    note              TEXT,
    finish_reason     TEXT,
    response_id       TEXT,
    caption           TEXT,
    prompt_tokens     INTEGER,
    candidates_tokens INTEGER,
    image_tokens      INTEGER,
    thoughts_tokens   INTEGER,
    total_tokens      INTEGER,
    bytes             INTEGER,
    first_byte_ms     INTEGER,
    total_ms          INTEGER,
    cost              INTEGER,             -- NULL: not known
    cost_at_most      INTEGER NOT NULL     -- the reservation until the cost is known
) STRICT;
CREATE INDEX attempt_job ON attempt (job, attempt);

CREATE TABLE output (
    output   INTEGER PRIMARY KEY AUTOINCREMENT,
    batch    INTEGER NOT NULL REFERENCES batch,
    job      INTEGER NOT NULL REFERENCES job,
    attempt  INTEGER NOT NULL REFERENCES attempt,
    kind     TEXT NOT NULL CHECK (kind IN ('original', 'derivative')),
    source   INTEGER REFERENCES output,    -- what a derivative was made from
    position INTEGER NOT NULL,             -- 1 for the first image of an answer
    status   TEXT NOT NULL CHECK (status IN ('planned', 'published')),
    name     TEXT NOT NULL,                -- below images/, with extension
    name_key TEXT NOT NULL,                -- without extension, as a disk that ignores case sees it
    spool    TEXT,                         -- below spool/, while planned
    media    TEXT NOT NULL,
    bytes    INTEGER NOT NULL,
    sha256   TEXT NOT NULL,
    width    INTEGER NOT NULL,
    height   INTEGER NOT NULL,
    stale    INTEGER NOT NULL DEFAULT 0 CHECK (stale IN (0, 1)), -- its job wants another name since
    moving   TEXT                          -- the name that it is being given; NULL when none
) STRICT;
CREATE INDEX output_job   ON output (job, position);
CREATE INDEX output_key   ON output (batch, name_key);
CREATE INDEX output_source ON output (source) WHERE source IS NOT NULL;
CREATE INDEX output_stale ON output (output) WHERE stale = 1;
CREATE INDEX output_moving ON output (output) WHERE moving IS NOT NULL;

-- Counters, kept by triggers in the transaction that changes what they count: `status` on a
-- million jobs reads a dozen rows.
CREATE TABLE job_count (
    batch INTEGER NOT NULL,
    state TEXT NOT NULL,
    n     INTEGER NOT NULL,
    PRIMARY KEY (batch, state)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER job_counted AFTER INSERT ON job BEGIN
    INSERT INTO job_count VALUES (NEW.batch, NEW.state, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER job_recounted AFTER UPDATE OF state ON job WHEN OLD.state <> NEW.state BEGIN
    UPDATE job_count SET n = n - 1 WHERE batch = OLD.batch AND state = OLD.state;
    INSERT INTO job_count VALUES (NEW.batch, NEW.state, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;

CREATE TABLE attempt_count (
    outcome           TEXT PRIMARY KEY,
    n                 INTEGER NOT NULL,
    prompt_tokens     INTEGER,
    candidates_tokens INTEGER,
    image_tokens      INTEGER,
    thoughts_tokens   INTEGER,
    total_tokens      INTEGER,
    cost              INTEGER NOT NULL DEFAULT 0,
    cost_at_most      INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TRIGGER attempt_counted AFTER INSERT ON attempt BEGIN
    INSERT INTO attempt_count (outcome, n, cost_at_most) VALUES (NEW.outcome, 1, NEW.cost_at_most)
        ON CONFLICT DO UPDATE SET n = n + 1, cost_at_most = cost_at_most + excluded.cost_at_most;
END;
CREATE TRIGGER attempt_ended AFTER UPDATE OF outcome ON attempt WHEN OLD.outcome = 'sent' AND NEW.outcome <> 'sent' BEGIN
    UPDATE attempt_count SET n = n - 1, cost_at_most = cost_at_most - OLD.cost_at_most WHERE outcome = 'sent';
    INSERT INTO attempt_count VALUES (NEW.outcome, 1, NEW.prompt_tokens, NEW.candidates_tokens, NEW.image_tokens,
                                      NEW.thoughts_tokens, NEW.total_tokens, coalesce(NEW.cost, 0), NEW.cost_at_most)
        ON CONFLICT DO UPDATE SET
            n = n + 1,
            prompt_tokens     = CASE WHEN excluded.prompt_tokens     IS NULL THEN prompt_tokens     ELSE coalesce(prompt_tokens, 0)     + excluded.prompt_tokens     END,
            candidates_tokens = CASE WHEN excluded.candidates_tokens IS NULL THEN candidates_tokens ELSE coalesce(candidates_tokens, 0) + excluded.candidates_tokens END,
            image_tokens      = CASE WHEN excluded.image_tokens      IS NULL THEN image_tokens      ELSE coalesce(image_tokens, 0)      + excluded.image_tokens      END,
            thoughts_tokens   = CASE WHEN excluded.thoughts_tokens   IS NULL THEN thoughts_tokens   ELSE coalesce(thoughts_tokens, 0)   + excluded.thoughts_tokens   END,
            total_tokens      = CASE WHEN excluded.total_tokens      IS NULL THEN total_tokens      ELSE coalesce(total_tokens, 0)      + excluded.total_tokens      END,
            cost              = cost + excluded.cost,
            cost_at_most      = cost_at_most + excluded.cost_at_most;
END;
CREATE TABLE output_count (status TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TRIGGER output_counted AFTER INSERT ON output BEGIN
    INSERT INTO output_count VALUES (NEW.status, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER output_recounted AFTER UPDATE OF status ON output WHEN OLD.status <> NEW.status BEGIN
    UPDATE output_count SET n = n - 1 WHERE status = OLD.status;
    INSERT INTO output_count VALUES (NEW.status, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER output_uncounted AFTER DELETE ON output BEGIN
    UPDATE output_count SET n = n - 1 WHERE status = OLD.status;
END;

-- The ledger's promise, kept by the database itself.
CREATE TRIGGER attempt_is_final BEFORE UPDATE ON attempt WHEN OLD.outcome <> 'sent' BEGIN
    SELECT RAISE(ABORT, 'an attempt is never changed after its end');
END;
CREATE TRIGGER attempt_is_kept BEFORE DELETE ON attempt BEGIN
    SELECT RAISE(ABORT, 'an attempt is never deleted');
END;

CREATE TABLE reference_stamp (
    path        TEXT PRIMARY KEY,
    bytes       INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    inode       INTEGER NOT NULL,
    sha256      TEXT NOT NULL,
    media       TEXT NOT NULL
) STRICT, WITHOUT ROWID;
