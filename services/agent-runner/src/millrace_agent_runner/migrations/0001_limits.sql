-- Rate limits of models: what is allowed, what was used, and who waits. Times are Unix seconds of this server's clock,
-- the one clock that all runners share. `*` stands for every workspace, or every model of the provider, together.

CREATE TABLE :schema:.rate_limits (
    workspace            text COLLATE "C" NOT NULL DEFAULT '*',
    provider             text COLLATE "C" NOT NULL,
    model                text COLLATE "C" NOT NULL DEFAULT '*',
    requests_per_minute  bigint CHECK (requests_per_minute > 0),
    tokens_per_minute    bigint CHECK (tokens_per_minute > 0),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    updated_by           text NOT NULL DEFAULT '',
    PRIMARY KEY (workspace, provider, model),
    CHECK (requests_per_minute IS NOT NULL OR tokens_per_minute IS NOT NULL)
);

-- What was used of one limit, by parts of the minute: `used[i]` belongs to the part that began `i - 1` parts before
-- `newest`. `paced_to` is when the calls made so far would have ended had they come one after the other.
CREATE TABLE :schema:.buckets (
    bucket    text COLLATE "C" PRIMARY KEY,
    paced_to  double precision NOT NULL DEFAULT 0,
    newest    bigint NOT NULL DEFAULT 0,
    used      bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

-- One row for each conversation whose next call waits, in the line of the bucket that makes it wait longest.
-- Whoever does not come back soon after `returns_at` has lost its place.
CREATE TABLE :schema:.waiting (
    conversation  text COLLATE "C" PRIMARY KEY,
    place         bigint GENERATED ALWAYS AS IDENTITY,
    bucket        text COLLATE "C" NOT NULL,
    units         bigint NOT NULL,
    returns_at    double precision NOT NULL
) WITH (fillfactor = 70);

CREATE INDEX waiting_by_bucket ON :schema:.waiting (bucket, place) INCLUDE (units, returns_at);

-- Providers that asked for a pause (Retry-After).
CREATE TABLE :schema:.blocks (
    provider       text COLLATE "C" NOT NULL,
    model          text COLLATE "C" NOT NULL,
    blocked_until  double precision NOT NULL,
    PRIMARY KEY (provider, model)
);

-- How far estimates are off, per model: tokens of input for each one estimated, and tokens of an answer.
CREATE TABLE :schema:.estimates (
    provider       text COLLATE "C" NOT NULL,
    model          text COLLATE "C" NOT NULL,
    input_ratio    double precision NOT NULL,
    output_tokens  double precision NOT NULL,
    PRIMARY KEY (provider, model)
);
