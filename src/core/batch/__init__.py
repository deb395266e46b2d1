"""Execute the chapters of a book, keep a record of each run, check and render what is committed.

The batch knows notebooks, not papers. A chapter is a percent script in the table of contents, with
a cell of typed parameters and, in a paper's chapter, one output whose metadata holds the claims.
The commands of `python -m core.batch`::

    list                 the chapters, their parameters and scales
    run CHAPTER          execute one: --scale NAME, -p NAME VALUE, --out FOLDER, --evidence
    refresh [CHAPTER]    execute, and put the results in place of the committed ones
    check                look for what is wrong with the committed book, without running it
    book                 execute what is stale, and render the book from fresh executions
    grid CHAPTER...      execute chapters x scales x values x seeds on many workers, resumable
    status, results, plot [FOLDER]    how far a grid is, its results as a table, as a figure
    study [FOLDER]       keep as evidence what became of each claim over the seeds of a grid
    drift A B            two sets of records side by side: other versions, machines, commits

Exit codes: 0 done; 1 ran and failed, or something was found; 2 refused, and nothing was written;
130 interrupted, by Ctrl-C or SIGTERM.

From Python: `chapters.find_chapters`, `execute.execute`, `check.problems`, `records.read_record`
and `reach.library_hashes` are the doors.
"""
