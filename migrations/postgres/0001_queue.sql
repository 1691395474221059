-- Queues and ledgers of many batches, in a schema of their own. Times are milliseconds since the Unix
-- epoch by this server's clock, money is millionths of a US dollar, digests are hex. No image and no
-- base64 is ever kept here. The text of names is compared by bytes (COLLATE "C"), whatever the database
-- was made with. JSON is kept as text: what the manifest says comes out as it went in.

-- The clock of all engines. A test hands in its own.
CREATE FUNCTION now_ms(given bigint) RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE AS
$$ SELECT coalesce(given, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) $$;

CREATE TABLE batch (
    batch       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text COLLATE "C" NOT NULL UNIQUE,
    manifest    text,             -- as its loader calls it; NULL for standard input
    provider    text NOT NULL,
    created_at  bigint NOT NULL
);

CREATE TABLE run (
    run         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch       bigint NOT NULL REFERENCES batch,
    command     text NOT NULL,
    version     text NOT NULL,
    started_at  bigint NOT NULL,
    ended_at    bigint,
    end_reason  text
);
CREATE INDEX run_batch ON run (batch, run);

CREATE TABLE worker (
    worker       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch        bigint NOT NULL REFERENCES batch,
    run          bigint NOT NULL REFERENCES run,
    token        text NOT NULL UNIQUE,
    host         text NOT NULL,
    pid          bigint NOT NULL,
    started_at   bigint NOT NULL,
    heartbeat_at bigint NOT NULL,
    draining     boolean NOT NULL DEFAULT false, -- a person wants it to end: it claims nothing more
    steady_since bigint NOT NULL,  -- since when its heartbeats came without a gap: who was away judges nobody
    ended_at     bigint,           -- in order, or when it was found dead
    dead         boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);
CREATE INDEX worker_living ON worker (batch, worker) WHERE ended_at IS NULL;

-- A lane is shared by all batches: the provider does not know of them.
CREATE TABLE lane (
    lane          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider      text NOT NULL,
    model         text COLLATE "C" NOT NULL,
    key_id        text NOT NULL,
    -- What was found out about its limit, so that the next run begins near it; NULL: nothing yet.
    per_minute    double precision,
    limit_source  text CHECK (limit_source IN ('stated', 'learned')),
    confidence    bigint,
    in_flight_max bigint,
    learned_at    bigint,
    -- What all its workers share: how fast, how many at once, until when not at all; as `pacing` keeps it.
    kept          text,
    kept_at       bigint NOT NULL DEFAULT 0,
    UNIQUE (provider, model, key_id)
) WITH (fillfactor = 20);

-- How a worker's lanes are doing, for `status`. Replaced with each heartbeat, gone with the worker.
CREATE TABLE lane_state (
    worker       bigint NOT NULL REFERENCES worker,
    lane         bigint NOT NULL REFERENCES lane,
    sent_minute  bigint NOT NULL,     -- requests in the last 60 s
    per_minute   double precision,    -- the believed limit; NULL: none is known yet
    limit_source text NOT NULL CHECK (limit_source IN ('given', 'stated', 'learned', 'unknown')),
    in_flight    bigint NOT NULL,
    in_flight_max bigint NOT NULL,
    opens_at     bigint,              -- NULL: open
    why          text,
    PRIMARY KEY (worker, lane)
) WITH (fillfactor = 50);

-- Which models may stand in for which, for some job at least; only ever grows.
CREATE TABLE stand_in (
    batch    bigint NOT NULL REFERENCES batch,
    model    text COLLATE "C" NOT NULL,
    fallback text COLLATE "C" NOT NULL,
    PRIMARY KEY (batch, model, fallback)
);

-- Numbers of leases: they never repeat, not even those of a transaction that was undone.
CREATE SEQUENCE epoch;

-- What claiming and settling touch: narrow on purpose. What only people read is in job_detail and
-- revision.
CREATE TABLE job (
    job          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch        bigint NOT NULL REFERENCES batch,
    name         text COLLATE "C" NOT NULL,
    ordinal      bigint NOT NULL,
    origin       text NOT NULL CHECK (origin IN ('manifest', 'reroll')),
    parent       bigint REFERENCES job,
    state        text NOT NULL CHECK (state IN ('waiting', 'pending', 'running', 'succeeded', 'held',
                                                'failed', 'refused', 'skipped', 'cancelled')),
    ready        boolean NOT NULL DEFAULT true, -- false: pending, but snoozed until available_at
    available_at bigint NOT NULL DEFAULT 0,
    snoozed_at   bigint NOT NULL DEFAULT 0,     -- when that was decided: if it lies ahead, the clock went back
    priority     integer NOT NULL DEFAULT 0,
    model        text COLLATE "C" NOT NULL,     -- of the present revision: the lane is chosen by it
    fallbacks    text[] COLLATE "C",            -- models that may stand in for it; NULL without any
    revision     bigint NOT NULL,               -- number of the present revision, from 1
    reservation  bigint,                        -- NULL: no known price
    estimate     bigint,
    worker       bigint,                        -- the lease: who, and its epoch; NULL unless running
    epoch        bigint,
    attempt      bigint,                        -- the attempt under way
    transient    bigint NOT NULL DEFAULT 0,     -- allowances used by the present revision
    no_image     bigint NOT NULL DEFAULT 0,
    lost         bigint NOT NULL DEFAULT 0,
    lost_alone   bigint NOT NULL DEFAULT 0,     -- those of them that ran alone, with nobody else to blame
    spared       boolean NOT NULL DEFAULT false, -- an end was put down to the lane
    -- 0: untried; 1: lost or spared before, behind those: another one tells more about a lane in trouble;
    -- 2: lost so often (queue::LOST_UNTIL_ALONE) that it runs alone
    turn         integer NOT NULL GENERATED ALWAYS AS
                 (CASE WHEN lost >= 3 THEN 2 WHEN lost > 0 OR spared THEN 1 ELSE 0 END) STORED,
    needs        bigint NOT NULL DEFAULT 0,     -- dependencies that have not succeeded yet
    cancel       text CHECK (cancel IN ('person', 'manifest')), -- asked for while running, or who cancelled it
    in_manifest  boolean NOT NULL DEFAULT true,
    UNIQUE (batch, name)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- A claim reads the head of job_ready and never sees a snoozed job; what has become due is promoted from
-- job_snoozed first.
CREATE INDEX job_ready   ON job (batch, model, turn, priority DESC, ordinal) WHERE state = 'pending' AND ready;
-- For lanes that stand in for another model.
CREATE INDEX job_ready_elsewhere ON job (batch, model, turn, priority DESC, ordinal)
    WHERE state = 'pending' AND ready AND fallbacks IS NOT NULL;
CREATE INDEX job_snoozed ON job (batch, available_at) WHERE state = 'pending' AND NOT ready;
CREATE INDEX job_snoozed_at ON job (batch, snoozed_at) WHERE state = 'pending' AND NOT ready;
CREATE INDEX job_leased  ON job (worker) WHERE state = 'running';
CREATE INDEX job_listed  ON job (batch, in_manifest DESC, ordinal, job);
CREATE INDEX job_state   ON job (batch, state, ordinal) WHERE state NOT IN ('succeeded', 'pending');

CREATE TABLE job_detail (
    job        bigint PRIMARY KEY REFERENCES job,
    batch      bigint NOT NULL,
    output     text NOT NULL,             -- wanted name below images/, without extension
    output_key text COLLATE "C" NOT NULL, -- as a disk that ignores case sees it
    stream     boolean NOT NULL,
    tags       text NOT NULL              -- JSON object
);
CREATE INDEX job_detail_key ON job_detail (batch, output_key);

CREATE TABLE revision (
    job          bigint NOT NULL REFERENCES job,
    n            bigint NOT NULL,
    spec_digest  text NOT NULL,
    input_digest text,           -- NULL while another job's output is awaited
    spec         text NOT NULL,  -- JSON: prompt, model, aspect_ratio, image_size, modalities, extra
    created_at   bigint NOT NULL,
    PRIMARY KEY (job, n)
);

CREATE TABLE reference (
    job      bigint NOT NULL,
    n        bigint NOT NULL,
    position bigint NOT NULL,
    kind     text NOT NULL CHECK (kind IN ('file', 'url', 'job')),
    source   text NOT NULL,      -- path, URL or the other job's name
    digest   text,
    bytes    bigint,
    media    text,
    PRIMARY KEY (job, n, position),
    FOREIGN KEY (job, n) REFERENCES revision (job, n)
);

CREATE TABLE dependency (
    job   bigint NOT NULL REFERENCES job,
    needs bigint NOT NULL REFERENCES job,
    PRIMARY KEY (job, needs)
);
CREATE INDEX dependency_needs ON dependency (needs);

-- The ledger. A row is changed once, when the attempt ends, and never deleted.
CREATE TABLE attempt (
    attempt           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Only the job is checked: the others are never deleted, and each check costs as much as the insert.
    batch             bigint NOT NULL,
    job               bigint NOT NULL REFERENCES job,
    revision          bigint NOT NULL,
    run               bigint NOT NULL,
    lane              bigint NOT NULL,
    worker            bigint NOT NULL,
    epoch             bigint NOT NULL,
    alone             boolean NOT NULL, -- nothing else of its process was under way
    outcome           text NOT NULL CHECK (outcome IN ('sent', 'succeeded', 'throttled', 'transient', 'no_image',
                                                       'refused', 'failed', 'aborted', 'lost')),
    sent_at           bigint NOT NULL,
    ended_at          bigint,
    http_status       bigint,
    error_code        text,
    error             text,
    note              text,
    finish_reason     text,
    response_id       text,
    caption           text,
    prompt_tokens     bigint,
    candidates_tokens bigint,
    image_tokens      bigint,
    thoughts_tokens   bigint,
    total_tokens      bigint,
    bytes             bigint,
    first_byte_ms     bigint,
    total_ms          bigint,
    cost              bigint,             -- NULL: not known
    cost_at_most      bigint NOT NULL     -- the reservation until the cost is known
) WITH (fillfactor = 70);
CREATE INDEX attempt_job ON attempt (job, attempt);
CREATE INDEX attempt_listed ON attempt (batch, attempt);
-- What a refusal is measured with.
CREATE INDEX attempt_paced ON attempt (lane, sent_at);

CREATE TABLE output (
    output   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch    bigint NOT NULL,
    job      bigint NOT NULL REFERENCES job,
    attempt  bigint NOT NULL,
    kind     text NOT NULL CHECK (kind IN ('original', 'derivative')),
    source   bigint REFERENCES output,     -- what a derivative was made from
    position bigint NOT NULL,              -- 1 for the first image of an answer
    status   text NOT NULL CHECK (status IN ('planned', 'published')),
    name     text NOT NULL,                -- below images/, with extension
    name_key text COLLATE "C" NOT NULL,    -- without extension, as a disk that ignores case sees it
    spool    text,                         -- below spool/, while planned
    media    text NOT NULL,
    bytes    bigint NOT NULL,
    sha256   text NOT NULL,
    width    bigint NOT NULL,
    height   bigint NOT NULL,
    stale    boolean NOT NULL DEFAULT false, -- its job wants another name since
    moving   text                            -- the name that it is being given; NULL when none
) WITH (fillfactor = 70);
CREATE INDEX output_job   ON output (job, position);
CREATE INDEX output_key   ON output (batch, name_key);
-- Two workers that plan at once cannot see each other's choice: this makes the second choose again.
CREATE UNIQUE INDEX output_planned_key ON output (batch, name_key) WHERE status = 'planned';
CREATE INDEX output_listed ON output (batch, output) WHERE status = 'published';
CREATE INDEX output_source ON output (source) WHERE source IS NOT NULL;
CREATE INDEX output_stale ON output (batch, output) WHERE stale;
CREATE INDEX output_moving ON output (batch, output) WHERE moving IS NOT NULL;

CREATE TABLE reference_stamp (
    batch       bigint NOT NULL REFERENCES batch,
    path        text COLLATE "C" NOT NULL,
    bytes       bigint NOT NULL,
    modified_ns bigint NOT NULL,
    inode       bigint NOT NULL,
    sha256      text NOT NULL,
    media       text NOT NULL,
    PRIMARY KEY (batch, path)
);

-- Counters, kept by triggers in the transaction that changes what they count: `status` on a million jobs
-- reads some dozen rows. Each writing connection counts in rows of its own (its slot), so that workers do
-- not wait for each other; the sum over all slots is the count. A single row may well be negative.
CREATE FUNCTION count_slot() RETURNS integer LANGUAGE sql STABLE AS
$$ SELECT coalesce(nullif(current_setting('nightpress.slot', true), ''), '-1')::integer $$;

CREATE TABLE job_count (
    batch bigint NOT NULL,
    slot  integer NOT NULL,
    state text NOT NULL,
    n     bigint NOT NULL,
    PRIMARY KEY (batch, slot, state)
) WITH (fillfactor = 50);

CREATE TABLE attempt_count (
    batch             bigint NOT NULL,
    slot              integer NOT NULL,
    outcome           text NOT NULL,
    n                 bigint NOT NULL,
    prompt_tokens     bigint,
    candidates_tokens bigint,
    image_tokens      bigint,
    thoughts_tokens   bigint,
    total_tokens      bigint,
    cost              bigint NOT NULL DEFAULT 0,
    cost_at_most      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (batch, slot, outcome)
) WITH (fillfactor = 50);

CREATE TABLE output_count (
    batch  bigint NOT NULL,
    slot   integer NOT NULL,
    status text NOT NULL,
    n      bigint NOT NULL,
    PRIMARY KEY (batch, slot, status)
) WITH (fillfactor = 50);

CREATE FUNCTION count_jobs() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO job_count AS c (batch, slot, state, n)
        SELECT batch, count_slot(), state, count(*) FROM fresh GROUP BY batch, state
        ON CONFLICT (batch, slot, state) DO UPDATE SET n = c.n + excluded.n;
    ELSE
        INSERT INTO job_count AS c (batch, slot, state, n)
        SELECT batch, count_slot(), state, sum(d)
        FROM (SELECT batch, state, -1 AS d FROM stale UNION ALL SELECT batch, state, 1 FROM fresh) both_sides
        GROUP BY batch, state HAVING sum(d) <> 0
        ON CONFLICT (batch, slot, state) DO UPDATE SET n = c.n + excluded.n;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER job_counted AFTER INSERT ON job REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION count_jobs();
CREATE TRIGGER job_recounted AFTER UPDATE ON job REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION count_jobs();

-- What nobody reported stays unknown: a sum over nothing but NULL is NULL.
CREATE FUNCTION plus(one bigint, other bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN one IS NULL THEN other ELSE one + coalesce(other, 0) END $$;

CREATE FUNCTION count_attempts() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO attempt_count AS c (batch, slot, outcome, n, cost_at_most)
        SELECT batch, count_slot(), outcome, count(*), sum(cost_at_most) FROM fresh GROUP BY batch, outcome
        ON CONFLICT (batch, slot, outcome) DO UPDATE SET
            n = c.n + excluded.n, cost_at_most = c.cost_at_most + excluded.cost_at_most;
    ELSE
        INSERT INTO attempt_count AS c (batch, slot, outcome, n, cost_at_most)
        SELECT batch, count_slot(), 'sent', -count(*), -sum(cost_at_most) FROM stale
        WHERE outcome = 'sent' GROUP BY batch
        ON CONFLICT (batch, slot, outcome) DO UPDATE SET
            n = c.n + excluded.n, cost_at_most = c.cost_at_most + excluded.cost_at_most;
        INSERT INTO attempt_count AS c (batch, slot, outcome, n, prompt_tokens, candidates_tokens, image_tokens,
                                        thoughts_tokens, total_tokens, cost, cost_at_most)
        SELECT batch, count_slot(), outcome, count(*), sum(prompt_tokens), sum(candidates_tokens),
               sum(image_tokens), sum(thoughts_tokens), sum(total_tokens), coalesce(sum(cost), 0), sum(cost_at_most)
        FROM fresh GROUP BY batch, outcome
        ON CONFLICT (batch, slot, outcome) DO UPDATE SET
            n = c.n + excluded.n,
            prompt_tokens     = plus(c.prompt_tokens, excluded.prompt_tokens),
            candidates_tokens = plus(c.candidates_tokens, excluded.candidates_tokens),
            image_tokens      = plus(c.image_tokens, excluded.image_tokens),
            thoughts_tokens   = plus(c.thoughts_tokens, excluded.thoughts_tokens),
            total_tokens      = plus(c.total_tokens, excluded.total_tokens),
            cost              = c.cost + excluded.cost,
            cost_at_most      = c.cost_at_most + excluded.cost_at_most;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER attempt_counted AFTER INSERT ON attempt REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION count_attempts();
CREATE TRIGGER attempt_ended AFTER UPDATE ON attempt REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION count_attempts();

CREATE FUNCTION count_outputs() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO output_count AS c (batch, slot, status, n)
        SELECT batch, count_slot(), status, count(*) FROM fresh GROUP BY batch, status
        ON CONFLICT (batch, slot, status) DO UPDATE SET n = c.n + excluded.n;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO output_count AS c (batch, slot, status, n)
        SELECT batch, count_slot(), status, -count(*) FROM stale GROUP BY batch, status
        ON CONFLICT (batch, slot, status) DO UPDATE SET n = c.n + excluded.n;
    ELSE
        INSERT INTO output_count AS c (batch, slot, status, n)
        SELECT batch, count_slot(), status, sum(d)
        FROM (SELECT batch, status, -1 AS d FROM stale UNION ALL SELECT batch, status, 1 FROM fresh) both_sides
        GROUP BY batch, status HAVING sum(d) <> 0
        ON CONFLICT (batch, slot, status) DO UPDATE SET n = c.n + excluded.n;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER output_counted AFTER INSERT ON output REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION count_outputs();
CREATE TRIGGER output_recounted AFTER UPDATE ON output REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION count_outputs();
CREATE TRIGGER output_uncounted AFTER DELETE ON output REFERENCING OLD TABLE AS stale
    FOR EACH STATEMENT EXECUTE FUNCTION count_outputs();

-- The ledger's promise, kept by the database itself.
CREATE FUNCTION keep_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an attempt is never changed after its end, and never deleted';
END $$;
CREATE TRIGGER attempt_is_final BEFORE UPDATE ON attempt FOR EACH ROW WHEN (OLD.outcome <> 'sent')
    EXECUTE FUNCTION keep_ledger();
CREATE TRIGGER attempt_is_kept BEFORE DELETE ON attempt FOR EACH ROW EXECUTE FUNCTION keep_ledger();
CREATE TRIGGER attempt_is_not_emptied BEFORE TRUNCATE ON attempt FOR EACH STATEMENT EXECUTE FUNCTION keep_ledger();
