-- What the checks of an agent's prompt and answer gave, beside the step that they were made for.

ALTER TABLE :schema:.steps ADD COLUMN scores json;

COMMENT ON COLUMN :schema:.steps.scores IS 'Scores of an agent''s checks by their names, from 0 to 1, of the attempt that completed the step.';

CREATE OR REPLACE VIEW :schema:.steps_now AS
SELECT
    s.execution_id, s.step, s.item,
    CASE WHEN s.status = 'pending' AND b.attempt IS NOT NULL THEN 'running' ELSE s.status END AS status,
    s.attempt, s.retry_count, s.item_count, s.reason, s.wait_until, s.input, s.output, s.error, s.error_category,
    CASE WHEN s.status = 'pending' AND b.attempt IS NOT NULL THEN b.runner ELSE s.runner END AS runner,
    s.tokens_used, s.cost_usd, s.llm_calls, s.unpriced_results, s.step_order, s.scheduled_at,
    coalesce(s.started_at, b.started_at) AS started_at,
    s.completed_at, s.updated_at,
    s.wait_reason, s.signal, s.iteration, s.child_id, s.cached, s.reused_from, s.scores
FROM :schema:.steps AS s
LEFT JOIN :schema:.attempt_starts AS b
    ON b.execution_id = s.execution_id AND b.step = s.step AND b.item = s.item AND b.attempt = s.attempt;
