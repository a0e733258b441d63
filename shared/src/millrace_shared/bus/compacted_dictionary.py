"""What logs have in common, so that a short one need not spell it out: halves the compacted form of a few transitions.

Compacted logs can be unpacked with exactly these bytes only. They never change; a better dictionary is another form of
message (`MARK` in `compacted.py`). They need not be complete either: what they do not hold is compressed as usual. The
commonest stand last, where references to them are shortest.
"""

from __future__ import annotations

DICTIONARY = (
    b'{"type":"execution.held","gate":"","rule":"throttle"},{"type":"execution.admitted","gate":""},"rule":"concurrency",'
    b'{"type":"execution.paused","deadline":,"id":"","reason":"","requested_by":""},{"type":"execution.resumed",'
    b'{"type":"execution.signalled","id":"","name":"","data":{"data":{"type":"execution.cancel_requested","id":"",'
    b'{"type":"step.iterated","step":"","iteration":1,{"type":"step.reused","step":"","execution_id":"","output":'
    b'{"type":"step.waiting","step":"","until":,"reason":"approval","signal":"","delay","breakpoint","input":{"data":{'
    b'{"type":"step.skipped","step":"","reason":"its condition is false"},{"type":"step.queued","step":"'
    b'{"type":"step.expanded","step":"","count":,"item":0,"item":1,"item":2,"child":"","plan":"","cached":true,"cache":"'
    b'{"type":"step.cancelled","step":"","reason":"the execution ends"},{"type":"execution.ending","outcome":"failed",'
    b'"cancelled","timeout","deadline":,"refs":{"/":{"sha256":"","size_bytes":,"parent":{"execution_id":"","step":"",'
    b'"attempt":1,"root":"","depth":1,"item":,"inline":true},"part":"","origin":{"kind":"retry","execution_id":"",'
    b'"trigger_id":"","breakpoints":["*"],"budget_usd":"","uses":{"secrets":{"null,false,true,'
    b'"error":{"code":"","category":"timeout","tool_error","server_error","rate_limited","message":"","retryable":true,'
    b'"detail":{"status":500}},{"type":"step.retry_scheduled","step":"","attempt":1,"at":1,"continued":true,'
    b'{"type":"step.failed","step":"","error":{"code":"","usage":{"calls":1,"input_tokens":,"output_tokens":,"cost_usd":"'
    b'","execution_name":"","labels":{"":""},"priority":"high","low","requested_by":"","traceparent":"00-","reuse":{"data":'
    b'{"v":2,"execution_id":"01","version":1,"at":1,"events":[{"type":"execution.started","request":{"type":"start",'
    b'"execution_id":"01","workspace":"default","workflow_id":"01","workflow_name":"","workflow_version":1,"definition":"'
    b'","requested_at":1,"input":{"data":{"}}},"deadline":1},{"type":"step.scheduled","step":"","attempt":1,'
    b'"input":{"data":{"}}}]}{"v":2,"execution_id":"01","version":2,"at":1,"events":[{"type":"step.completed","step":"",'
    b'"attempt":1,"output":{"data":{"}},"started_at":17,"finished_at":17,"usage":{"runner":"'
    b'},{"type":"step.scheduled","step":"","attempt":1,"input":{"data":{"}}}]}{"v":2,"execution_id":"01","version":3,"at":1,'
    b'"events":[{"type":"step.completed","step":"","attempt":1,"output":{"data":"},"started_at":1,"finished_at":1,'
    b'"runner":"agent-runner-"},{"type":"execution.finished","status":"failed","completed","output":{"data":{"}}}]}'
)
