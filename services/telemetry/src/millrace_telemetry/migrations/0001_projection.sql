-- The projected tables. millrace_shared/execution/tables.py has the same columns, and a test compares the two.
--
-- Text is compared by bytes (COLLATE "C"): ids and names need no language, and it is the cheapest. Values are json
-- and not jsonb: a user's keys keep their order, numbers their digits, and writing costs a syntax check only.
-- Rows are updated a few times soon after they are made, so pages keep room for it. Few indexes: each costs every write.

CREATE TABLE :schema:.executions (
    id                text COLLATE "C" PRIMARY KEY,
    workspace         text COLLATE "C" NOT NULL DEFAULT '',
    workflow_id       text COLLATE "C" NOT NULL DEFAULT '',
    workflow_name     text COLLATE "C" NOT NULL DEFAULT '',
    workflow_version  integer NOT NULL DEFAULT 0,
    definition        text COLLATE "C" NOT NULL DEFAULT '',
    execution_number  bigint,
    execution_name    text COLLATE "C",
    status            text COLLATE "C" NOT NULL DEFAULT 'running',
    priority          text COLLATE "C" NOT NULL DEFAULT 'normal',
    labels            jsonb NOT NULL DEFAULT '{}',
    requested_by      text NOT NULL DEFAULT '',
    trace_id          text COLLATE "C" NOT NULL DEFAULT '',
    input             json,
    output            json,
    error             json,
    error_category    text COLLATE "C",
    tokens_used       bigint NOT NULL DEFAULT 0,
    cost_usd          numeric NOT NULL DEFAULT 0,
    llm_calls         bigint NOT NULL DEFAULT 0,
    unpriced_results  bigint NOT NULL DEFAULT 0,
    steps_completed   bigint NOT NULL DEFAULT 0,
    steps_failed      bigint NOT NULL DEFAULT 0,
    steps_skipped     bigint NOT NULL DEFAULT 0,
    steps_cancelled   bigint NOT NULL DEFAULT 0,
    retries           bigint NOT NULL DEFAULT 0,
    created_at        timestamptz NOT NULL DEFAULT 'epoch',
    started_at        timestamptz,
    deadline_at       timestamptz,
    completed_at      timestamptz,
    updated_at        timestamptz NOT NULL DEFAULT 'epoch',
    last_version      integer NOT NULL DEFAULT 0
) WITH (fillfactor = 80);

CREATE INDEX executions_by_workspace ON :schema:.executions (workspace, created_at, id);
CREATE INDEX executions_by_status ON :schema:.executions (workspace, status, created_at, id);
CREATE INDEX executions_by_workflow ON :schema:.executions (workflow_id, created_at, id);

CREATE TABLE :schema:.steps (
    execution_id      text COLLATE "C" NOT NULL,
    step              text COLLATE "C" NOT NULL,
    item              integer NOT NULL,
    status            text COLLATE "C" NOT NULL DEFAULT 'pending',
    attempt           integer NOT NULL DEFAULT 0,
    retry_count       integer NOT NULL DEFAULT 0,
    item_count        integer,
    reason            text,
    wait_until        timestamptz,
    input             json,
    output            json,
    error             json,
    error_category    text COLLATE "C",
    runner            text COLLATE "C" NOT NULL DEFAULT '',
    tokens_used       bigint NOT NULL DEFAULT 0,
    cost_usd          numeric NOT NULL DEFAULT 0,
    llm_calls         bigint NOT NULL DEFAULT 0,
    unpriced_results  bigint NOT NULL DEFAULT 0,
    step_order        bigint,
    scheduled_at      timestamptz,
    started_at        timestamptz,
    completed_at      timestamptz,
    updated_at        timestamptz NOT NULL DEFAULT 'epoch',
    PRIMARY KEY (execution_id, step, item)
) WITH (fillfactor = 80);

COMMENT ON COLUMN :schema:.steps.item IS 'Index in a for_each, or -1 for the step itself.';

CREATE TABLE :schema:.attempts (
    execution_id      text COLLATE "C" NOT NULL,
    step              text COLLATE "C" NOT NULL,
    item              integer NOT NULL,
    attempt           integer NOT NULL,
    status            text COLLATE "C" NOT NULL DEFAULT 'failed',
    started_at        timestamptz,
    finished_at       timestamptz,
    error             json,
    runner            text COLLATE "C" NOT NULL DEFAULT '',
    tokens_used       bigint NOT NULL DEFAULT 0,
    cost_usd          numeric,
    llm_calls         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (execution_id, step, item, attempt)
);

CREATE TABLE :schema:.transitions (
    execution_id      text COLLATE "C" NOT NULL,
    version           integer NOT NULL,
    stream_sequence   bigint NOT NULL DEFAULT 0,
    at                timestamptz NOT NULL DEFAULT 'epoch',
    events            json,
    PRIMARY KEY (execution_id, version)
);

-- The running number of a workflow's executions, given in the order of the log.
CREATE TABLE :schema:.execution_counters (
    workspace         text COLLATE "C" NOT NULL,
    workflow_id       text COLLATE "C" NOT NULL,
    last_number       bigint NOT NULL,
    PRIMARY KEY (workspace, workflow_id)
);

-- Facts: written from TELEMETRY only, never by the projection of the log, so that neither waits for the other.

CREATE TABLE :schema:.attempt_starts (
    execution_id      text COLLATE "C" NOT NULL,
    step              text COLLATE "C" NOT NULL,
    item              integer NOT NULL,
    attempt           integer NOT NULL,
    started_at        timestamptz NOT NULL,
    runner            text COLLATE "C" NOT NULL,
    PRIMARY KEY (execution_id, step, item, attempt)
);

-- `at` is part of the key because an attempt that a runner lost is performed again, under the same number: its calls
-- were made, and paid for, twice.
CREATE TABLE :schema:.llm_calls (
    execution_id          text COLLATE "C" NOT NULL,
    step                  text COLLATE "C" NOT NULL,
    item                  integer NOT NULL,
    attempt               integer NOT NULL,
    sequence              integer NOT NULL,
    at                    timestamptz NOT NULL,
    workspace             text COLLATE "C" NOT NULL,
    workflow_id           text COLLATE "C" NOT NULL,
    provider              text COLLATE "C" NOT NULL,
    model                 text COLLATE "C" NOT NULL,
    duration_s            double precision NOT NULL,
    input_tokens          bigint NOT NULL,
    output_tokens         bigint NOT NULL,
    cached_tokens         bigint NOT NULL,
    reasoning_tokens      bigint NOT NULL,
    cost_usd              numeric,
    price_version         text,
    time_to_first_token_s double precision,
    finish_reason         text,
    error                 json,
    error_category        text COLLATE "C",
    PRIMARY KEY (execution_id, step, item, attempt, sequence, at)
);

CREATE INDEX llm_calls_by_workspace ON :schema:.llm_calls (workspace, at);

-- How far each stream is projected. Written in the transaction that writes the rows, and only from the value that the
-- writer read: of two writers one loses. `subject` is that of the message at `sequence`: it tells a stream that was
-- restored or replaced from the one that was projected.
CREATE TABLE :schema:.offsets (
    stream            text PRIMARY KEY,
    sequence          bigint NOT NULL,
    subject           text NOT NULL DEFAULT ''
);

INSERT INTO :schema:.offsets (stream, sequence) VALUES ('EVENTS', 0), ('TELEMETRY', 0);

-- The steps as they are now: a pending attempt that a runner has begun is running. Reads of steps go through this.
CREATE VIEW :schema:.steps_now AS
SELECT
    s.execution_id, s.step, s.item,
    CASE WHEN s.status = 'pending' AND b.attempt IS NOT NULL THEN 'running' ELSE s.status END AS status,
    s.attempt, s.retry_count, s.item_count, s.reason, s.wait_until, s.input, s.output, s.error, s.error_category,
    CASE WHEN s.status = 'pending' AND b.attempt IS NOT NULL THEN b.runner ELSE s.runner END AS runner,
    s.tokens_used, s.cost_usd, s.llm_calls, s.unpriced_results, s.step_order, s.scheduled_at,
    coalesce(s.started_at, b.started_at) AS started_at,
    s.completed_at, s.updated_at
FROM :schema:.steps AS s
LEFT JOIN :schema:.attempt_starts AS b
    ON b.execution_id = s.execution_id AND b.step = s.step AND b.item = s.item AND b.attempt = s.attempt;
