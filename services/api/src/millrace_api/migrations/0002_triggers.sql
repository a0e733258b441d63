-- What starts executions by itself. `spec` is the trigger as its author wrote it, but for the secret; the columns beside
-- it are those that rows are found by. A token opens the door that it names, so only its hash is kept.
CREATE TABLE config.triggers (
    id             text PRIMARY KEY,
    workspace      text NOT NULL,
    name           text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('cron', 'event', 'webhook', 'alert')),
    enabled        boolean NOT NULL,
    spec           jsonb NOT NULL,
    event_name     text,
    secret         text,
    token_hash     text UNIQUE,
    token_hint     text,
    scheduled_from timestamptz NOT NULL DEFAULT now(),
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    created_by     text NOT NULL,
    UNIQUE (workspace, name)
);

CREATE INDEX triggers_newest ON config.triggers (workspace, created_at DESC, id DESC);
CREATE INDEX triggers_by_kind ON config.triggers (kind, workspace, event_name) WHERE enabled;

-- Counted apart from what is configured, so that counting never waits for somebody who saves, nor the other way round.
CREATE TABLE config.trigger_tallies (
    trigger_id        text PRIMARY KEY REFERENCES config.triggers (id) ON DELETE CASCADE,
    fired             bigint NOT NULL DEFAULT 0,
    repeated          bigint NOT NULL DEFAULT 0,
    filtered          bigint NOT NULL DEFAULT 0,
    failed            bigint NOT NULL DEFAULT 0,
    missed            bigint NOT NULL DEFAULT 0,
    last_fired_at     timestamptz,
    last_scheduled_at timestamptz,
    last_execution_id text,
    last_error        text,
    last_error_at     timestamptz
);
