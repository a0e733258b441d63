"""Every statement on the `config` schema. `$1` is the workspace wherever a workspace is involved."""

# ruff: noqa: S608  what is put together here are the constants below, never a value

_COLUMNS = """w.id, w.workspace, w.name, w.description, w.latest_version, w.created_at, w.updated_at, w.archived_at,
    v.version, v.content_hash, v.created_at AS version_created_at, v.created_by"""
_JOIN = "config.workflows w JOIN config.workflow_versions v ON v.workflow_id = w.id"
_REF = "w.workspace = $1 AND (w.id = $2 OR w.name = $2)"
_ID_FIRST = "ORDER BY w.id = $2 DESC LIMIT 1"  # a name may look like another workflow's id

FIND = f"""
SELECT {_COLUMNS}, v.definition, v.source, v.source_format
FROM {_JOIN} AND v.version = coalesce($3, w.latest_version)
WHERE {_REF} {_ID_FIRST}"""

ID = f"SELECT w.id FROM config.workflows w WHERE {_REF} {_ID_FIRST}"

LOCK = "SELECT id, name, latest_version, archived_at FROM config.workflows WHERE workspace = $1 AND id = $2 FOR UPDATE"

HASH = "SELECT content_hash FROM config.workflow_versions WHERE workflow_id = $1 AND version = $2"

INSERT_WORKFLOW = """
INSERT INTO config.workflows (id, workspace, name, description, latest_version)
VALUES ($2, $1, $3, $4, 1)
ON CONFLICT (workspace, name) DO NOTHING
RETURNING id"""

INSERT_VERSION = """
INSERT INTO config.workflow_versions
    (workflow_id, version, content_hash, definition, source, source_format, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)"""

ADVANCE = """
UPDATE config.workflows SET latest_version = $2, description = $3, updated_at = now(), archived_at = NULL
WHERE id = $1"""

REVIVE = "UPDATE config.workflows SET updated_at = now(), archived_at = NULL WHERE id = $1"

ARCHIVE = """
UPDATE config.workflows w SET archived_at = now(), updated_at = now()
WHERE w.workspace = $1 AND w.id = $2 AND w.archived_at IS NULL"""

LIST = f"""
SELECT {_COLUMNS}
FROM {_JOIN} AND v.version = w.latest_version
WHERE w.workspace = $1 AND ($2 OR w.archived_at IS NULL) AND ($3::text IS NULL OR w.name = $3)
  AND ($4::timestamptz IS NULL OR (w.created_at, w.id) < ($4, $5))
ORDER BY w.created_at DESC, w.id DESC
LIMIT $6 OFFSET $7"""

COUNT = """
SELECT count(*) FROM config.workflows
WHERE workspace = $1 AND ($2 OR archived_at IS NULL) AND ($3::text IS NULL OR name = $3)"""

VERSIONS = f"""
SELECT {_COLUMNS}
FROM {_JOIN}
WHERE w.workspace = $1 AND w.id = $2 AND ($3::bigint IS NULL OR v.version < $3)
ORDER BY v.version DESC
LIMIT $4 OFFSET $5"""

KNOWN = """
SELECT name, latest_version, archived_at IS NOT NULL AS archived
FROM config.workflows WHERE workspace = $1 AND name = ANY($2::text[])"""

NAMES = """
SELECT name FROM config.workflows WHERE workspace = $1 AND archived_at IS NULL
ORDER BY updated_at DESC LIMIT $2"""

DEFINITION_BY_HASH = "SELECT definition FROM config.workflow_versions WHERE content_hash = $1 LIMIT 1"
