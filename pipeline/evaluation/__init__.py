"""Stage 3: how good a restoration is.

`scores` applies `metrics` to a whole split, degraded by `batches`; `baselines` are restorations without a search,
`judge` is the reference classifier, `panel` the pictures. Exports nothing; its modules are imported by name.
"""
