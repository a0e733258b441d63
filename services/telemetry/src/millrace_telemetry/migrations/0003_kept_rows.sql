-- Rows of executions whose logs have expired outlive a rebuild, and keep their numbers.

ALTER TABLE :schema:.execution_counters ADD COLUMN kept_number bigint NOT NULL DEFAULT 0;

COMMENT ON COLUMN :schema:.execution_counters.kept_number IS 'Largest number among the rows that the last rebuild kept: up to it some numbers are taken.';
