-- What an execution belongs to and what it waits at; what a step waits for, and where its output came from.

ALTER TABLE :schema:.executions
    ADD COLUMN parent_id    text COLLATE "C",
    ADD COLUMN parent_step  text COLLATE "C",
    ADD COLUMN parent_item  integer,
    ADD COLUMN root_id      text COLLATE "C",
    ADD COLUMN depth        integer NOT NULL DEFAULT 0,
    ADD COLUMN inline       boolean NOT NULL DEFAULT false,
    ADD COLUMN part         text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN origin       json,
    ADD COLUMN breakpoints  json,
    ADD COLUMN held         json,
    ADD COLUMN paused       json,
    ADD COLUMN ending       json,
    ADD COLUMN final_status text COLLATE "C";

UPDATE :schema:.executions SET final_status = status WHERE status <> 'running';

-- The status follows from the others, so that no writer needs to know them all. Dropping it drops its index.
ALTER TABLE :schema:.executions DROP COLUMN status;
ALTER TABLE :schema:.executions ADD COLUMN status text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
    CASE
        WHEN final_status IS NOT NULL THEN final_status
        WHEN paused IS NOT NULL THEN 'paused'
        WHEN held IS NOT NULL THEN 'pending'
        ELSE 'running'
    END
) STORED;
CREATE INDEX executions_by_status ON :schema:.executions (workspace, status, created_at, id);

COMMENT ON COLUMN :schema:.executions.root_id IS 'The execution at the top; null for that one itself.';
COMMENT ON COLUMN :schema:.executions.inline IS 'Performs a group or a plan of its parent''s workflow: not counted as an execution of the workflow.';
COMMENT ON COLUMN :schema:.executions.tokens_used IS 'Children included: sum over executions without parent_id.';
COMMENT ON COLUMN :schema:.executions.held IS 'The gate of flow control that it waits at.';
COMMENT ON COLUMN :schema:.executions.paused IS 'Who paused it, when, and why.';
COMMENT ON COLUMN :schema:.executions.ending IS 'How it will end. Current while it has not ended.';

CREATE INDEX executions_by_parent ON :schema:.executions (parent_id) WHERE parent_id IS NOT NULL;

ALTER TABLE :schema:.steps
    ADD COLUMN wait_reason  text COLLATE "C",
    ADD COLUMN signal       text COLLATE "C",
    ADD COLUMN iteration    integer NOT NULL DEFAULT 1,
    ADD COLUMN child_id     text COLLATE "C",
    ADD COLUMN cached       boolean NOT NULL DEFAULT false,
    ADD COLUMN reused_from  text COLLATE "C";

COMMENT ON COLUMN :schema:.steps.wait_reason IS 'What it waits, or last waited, for. Current while status is waiting.';

CREATE OR REPLACE VIEW :schema:.steps_now AS
SELECT
    s.execution_id, s.step, s.item,
    CASE WHEN s.status = 'pending' AND b.attempt IS NOT NULL THEN 'running' ELSE s.status END AS status,
    s.attempt, s.retry_count, s.item_count, s.reason, s.wait_until, s.input, s.output, s.error, s.error_category,
    CASE WHEN s.status = 'pending' AND b.attempt IS NOT NULL THEN b.runner ELSE s.runner END AS runner,
    s.tokens_used, s.cost_usd, s.llm_calls, s.unpriced_results, s.step_order, s.scheduled_at,
    coalesce(s.started_at, b.started_at) AS started_at,
    s.completed_at, s.updated_at,
    s.wait_reason, s.signal, s.iteration, s.child_id, s.cached, s.reused_from
FROM :schema:.steps AS s
LEFT JOIN :schema:.attempt_starts AS b
    ON b.execution_id = s.execution_id AND b.step = s.step AND b.item = s.item AND b.attempt = s.attempt;
