-- Workflows and their immutable versions. `definition` is the canonical JSON whose SHA-256 is `content_hash`, kept as
-- text because its bytes are what was hashed; `source` is what the author sent.
CREATE TABLE config.workflows (
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

CREATE INDEX workflows_newest ON config.workflows (workspace, created_at DESC, id DESC);

CREATE TABLE config.workflow_versions (
    workflow_id   text NOT NULL REFERENCES config.workflows (id),
    version       integer NOT NULL CHECK (version >= 1),
    content_hash  text NOT NULL,
    definition    text NOT NULL,
    source        text NOT NULL,
    source_format text NOT NULL CHECK (source_format IN ('json', 'yaml')),
    created_at    timestamptz NOT NULL DEFAULT now(),
    created_by    text NOT NULL,
    PRIMARY KEY (workflow_id, version)
);

CREATE INDEX workflow_versions_hash ON config.workflow_versions (content_hash);

CREATE FUNCTION config.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a workflow version never changes';
END
$$;

CREATE TRIGGER workflow_versions_immutable BEFORE UPDATE OR DELETE ON config.workflow_versions
    FOR EACH ROW EXECUTE FUNCTION config.refuse_change();
