-- An execution keeps its number whatever becomes of the tables: a rebuild puts the numbers aside here, and the replay
-- takes them back. So counters only ever count on, and no number is given twice.

CREATE TABLE :schema:.kept_numbers (
    execution_id      text COLLATE "C" PRIMARY KEY,
    number            bigint NOT NULL
);

COMMENT ON TABLE :schema:.kept_numbers IS 'Numbers of executions whose rows a rebuild has removed and not made again yet.';

ALTER TABLE :schema:.execution_counters DROP COLUMN kept_number;
