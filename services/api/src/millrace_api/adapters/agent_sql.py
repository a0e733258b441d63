"""Every statement about saved agents. `$1` is the workspace wherever a workspace is involved."""

# ruff: noqa: S608  what is put together here are the constants below, never a value

_COLUMNS = """a.id, a.workspace, a.name, a.description, a.latest_version, a.created_at, a.updated_at, a.archived_at,
    v.version, v.content_hash, v.created_at AS version_created_at, v.created_by"""
_DOCUMENT = "v.definition, v.source, v.source_format"
_JOIN = "config.agents a JOIN config.agent_versions v ON v.agent_id = a.id"
_REF = "a.workspace = $1 AND (a.id = $2 OR a.name = $2)"
_ID_FIRST = "ORDER BY a.id = $2 DESC LIMIT 1"  # a name may look like another agent's id

FIND = f"""
SELECT {_COLUMNS}, {_DOCUMENT}
FROM {_JOIN} AND v.version = coalesce($3, a.latest_version)
WHERE {_REF} {_ID_FIRST}"""

ID = f"SELECT a.id FROM config.agents a WHERE {_REF} {_ID_FIRST}"

LOCK = "SELECT name, latest_version, archived_at FROM config.agents WHERE workspace = $1 AND id = $2 FOR UPDATE"

HASH = "SELECT content_hash FROM config.agent_versions WHERE agent_id = $1 AND version = $2"

INSERT_AGENT = """
INSERT INTO config.agents (id, workspace, name, description, latest_version)
VALUES ($2, $1, $3, $4, 1)
ON CONFLICT (workspace, name) DO NOTHING
RETURNING id"""

INSERT_VERSION = """
INSERT INTO config.agent_versions (agent_id, version, content_hash, definition, source, source_format, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)"""

ADVANCE = """
UPDATE config.agents SET latest_version = $2, description = $3, updated_at = now(), archived_at = NULL
WHERE id = $1"""

REVIVE = "UPDATE config.agents SET updated_at = now(), archived_at = NULL WHERE id = $1"

ARCHIVE = """
UPDATE config.agents SET archived_at = now(), updated_at = now()
WHERE workspace = $1 AND id = $2 AND archived_at IS NULL"""

LIST = f"""
SELECT {_COLUMNS}
FROM {_JOIN} AND v.version = a.latest_version
WHERE a.workspace = $1 AND ($2 OR a.archived_at IS NULL) AND ($3::text IS NULL OR a.name = $3)
  AND ($4::timestamptz IS NULL OR (a.created_at, a.id) < ($4, $5))
ORDER BY a.created_at DESC, a.id DESC
LIMIT $6 OFFSET $7"""

COUNT = """
SELECT count(*) FROM config.agents
WHERE workspace = $1 AND ($2 OR archived_at IS NULL) AND ($3::text IS NULL OR name = $3)"""

VERSIONS = f"""
SELECT {_COLUMNS}
FROM {_JOIN}
WHERE a.workspace = $1 AND a.id = $2 AND ($3::bigint IS NULL OR v.version < $3)
ORDER BY v.version DESC
LIMIT $4 OFFSET $5"""

WANTED = f"""
SELECT wanted.reference, {_COLUMNS}, v.definition
FROM unnest($2::text[], $3::text[], $4::integer[]) AS wanted (reference, name, version)
JOIN config.agents a ON a.workspace = $1 AND a.name = wanted.name
JOIN config.agent_versions v ON v.agent_id = a.id AND v.version = coalesce(wanted.version, a.latest_version)"""

NAMES = """
SELECT name FROM config.agents WHERE workspace = $1 AND archived_at IS NULL
ORDER BY updated_at DESC LIMIT $2"""
