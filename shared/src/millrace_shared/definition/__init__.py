"""The workflow definition: the document, its model, its rules and its graph.

`validation.validate` is the way in for anything a person wrote, and `plans.validate_plan` for what a running execution
made. `model.WorkflowDefinition` is what everything else works with: it only exists for documents that passed.
`parts.part_of` gives the definitions of its groups.
"""
