-- Budgets: what calls to models may use together, what they have used, and every call that was counted.

-- What a workspace, or one of its workflows (`*` stands for all of them together), may use in each day or month (UTC).
CREATE TABLE :schema:.budgets (
    workspace     text COLLATE "C" NOT NULL,
    workflow_id   text COLLATE "C" NOT NULL DEFAULT '*',
    period        text COLLATE "C" NOT NULL CHECK (period IN ('day', 'month')),
    max_cost_usd  numeric CHECK (max_cost_usd > 0),
    max_tokens    bigint CHECK (max_tokens > 0),
    max_calls     bigint CHECK (max_calls > 0),
    on_breach     text NOT NULL DEFAULT 'stop' CHECK (on_breach IN ('stop', 'downgrade', 'ask', 'alert')),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    updated_by    text NOT NULL DEFAULT '',
    PRIMARY KEY (workspace, workflow_id, period),
    CHECK (max_cost_usd IS NOT NULL OR max_tokens IS NOT NULL OR max_calls IS NOT NULL)
);

-- What was used under one budget, and what is held for calls that are being made. Tokens are those of input and output.
-- `raises` counts how often people have allowed the budget once more.
CREATE TABLE :schema:.accounts (
    scope            text COLLATE "C" PRIMARY KEY,
    spent_usd        numeric NOT NULL DEFAULT 0,
    spent_tokens     bigint NOT NULL DEFAULT 0,
    spent_calls      bigint NOT NULL DEFAULT 0,
    reserved_usd     numeric NOT NULL DEFAULT 0 CHECK (reserved_usd >= 0),
    reserved_tokens  bigint NOT NULL DEFAULT 0 CHECK (reserved_tokens >= 0),
    reserved_calls   bigint NOT NULL DEFAULT 0 CHECK (reserved_calls >= 0),
    raises           integer NOT NULL DEFAULT 0,
    breached_at      timestamptz,
    updated_at       timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- Every call that was counted, once, in all accounts of `scopes`: the sum over these rows is what the accounts hold.
--
-- reserved  the call is being made, or its runner died: `cost_usd` and `tokens` are the most that it was thought to use
-- settled   they are what it used
-- presumed  nobody knows what it used; the most that was thought stands for it
-- released  it was not made, or refused: it counts nowhere
--
-- `try` numbers what was tried for one call of a conversation: after a crash the same call is made again.
CREATE TABLE :schema:.entries (
    execution_id   text COLLATE "C" NOT NULL,
    step           text COLLATE "C" NOT NULL,
    item           integer NOT NULL,
    iteration      integer NOT NULL,
    call           integer NOT NULL,
    try            integer NOT NULL,
    attempt        integer NOT NULL,
    workspace      text COLLATE "C" NOT NULL,
    workflow_id    text COLLATE "C" NOT NULL,
    provider       text COLLATE "C" NOT NULL,
    model          text COLLATE "C" NOT NULL,
    scopes         text[] COLLATE "C" NOT NULL,
    state          text COLLATE "C" NOT NULL CHECK (state IN ('reserved', 'settled', 'presumed', 'released')),
    cost_usd       numeric,
    tokens         bigint NOT NULL,
    reserved_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at     timestamptz NOT NULL,
    closed_at      timestamptz,
    PRIMARY KEY (execution_id, step, item, iteration, call, try)
);

CREATE INDEX entries_reserved ON :schema:.entries (expires_at) WHERE state = 'reserved';
CREATE INDEX entries_by_time ON :schema:.entries (reserved_at);

-- Prices that go before those of the price list: US dollars for a million tokens. `model` is as in `provider:model`.
CREATE TABLE :schema:.prices (
    provider            text COLLATE "C" NOT NULL,
    model               text COLLATE "C" NOT NULL,
    input_per_million   numeric NOT NULL CHECK (input_per_million >= 0),
    output_per_million  numeric NOT NULL CHECK (output_per_million >= 0),
    cached_per_million  numeric CHECK (cached_per_million >= 0),
    version             text NOT NULL,
    updated_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, model)
);
