"""What an execution looks like to those who ask: rows, folded from its log.

`tables` says which columns there are, `columns` what they hold, `projection` turns a transition into changes of rows,
`changes` merges and applies them. Telemetry writes the changes to Postgres, `view` applies them in memory, so the two
cannot disagree.
"""
