"""The tools that an agent may call, by the name that a definition gives.

| name | configuration | what it does | idempotent |
|---|---|---|---|
| `http.get` | `hosts`: the only ones it may ask; `headers`: for them | GET through the runner's guard | yes |
| `http.request` | the same, and `methods`: those it may use | any request through the guard | GET and HEAD alone |
| `web.scrape` | | one page as Markdown, by Firecrawl | yes |
| `web.search` | `results_max` | the web, by Firecrawl | yes |
| `human.ask` | `timeout_s`: how long people have; `form`: what they enter, a JSON Schema | asks people | yes |
| `python.sandbox` | `memory_bytes_max`; `on_violation`: `fail` or `tell` | runs Python of the model | yes |
| `mcp:<name>` | `url` and `headers`, else the operator's; `only`: these of its tools | what it offers | no |
| any other | `call`: a function, named as in `python` steps; `description` | calls it | with `idempotent: true` |

A name without configuration is that of a registered function. What a function takes is read from its signature, and
what it does from its docstring. Every tool takes these, too:

| configuration | meaning |
|---|---|
| `output_bytes_max` | a longer result is cut in the middle before the model sees it, and says so |
| `timeout_s` | how long one call may take; the model is told when it took longer |
| `on_unknown` | where a call may not be repeated, and nobody knows how it ended: `tell` the model, or `fail` the step |

A tool that fails tells the model why; the model may try something else, within the agent's limits. A tool that is not
idempotent is never repeated when it is not known how a call ended. To add a tool, write a module like those here, with
a function that makes it, and name it in `registry`.
"""

from millrace_agent_runner.executors.agent.tools.registry import Tools

__all__ = ["Tools"]
