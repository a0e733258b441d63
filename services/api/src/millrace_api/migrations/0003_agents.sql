-- Agents that are saved by themselves, and their immutable versions; kept as workflows are.
CREATE TABLE config.agents (
    id             text PRIMARY KEY,
    workspace      text NOT NULL,
    name           text NOT NULL,
    description    text,
    latest_version integer NOT NULL CHECK (latest_version >= 1),
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    archived_at    timestamptz,
    UNIQUE (workspace, name)
);

CREATE INDEX agents_newest ON config.agents (workspace, created_at DESC, id DESC);

CREATE TABLE config.agent_versions (
    agent_id      text NOT NULL REFERENCES config.agents (id),
    version       integer NOT NULL CHECK (version >= 1),
    content_hash  text NOT NULL,
    definition    text NOT NULL,
    source        text NOT NULL,
    source_format text NOT NULL CHECK (source_format IN ('json', 'yaml')),
    created_at    timestamptz NOT NULL DEFAULT now(),
    created_by    text NOT NULL,
    PRIMARY KEY (agent_id, version)
);

CREATE FUNCTION config.refuse_agent_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a version of an agent never changes';
END
$$;

CREATE TRIGGER agent_versions_immutable BEFORE UPDATE OR DELETE ON config.agent_versions
    FOR EACH ROW EXECUTE FUNCTION config.refuse_agent_change();
