"""Execute the chapters of a book, keep a record of each run, check and render what is committed.

`python -m core.batch --help` lists the commands. The batch knows notebooks, not papers: a chapter
is a percent script with a cell of typed parameters, and one output whose metadata holds claims.
"""
