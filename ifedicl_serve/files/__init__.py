"""Files of somebody else's read with care, files of ours written whole or not at all.

reading          bytes, bounded
writing          files and folders that change in one step
tables           files of rows, opened by their suffix; what is wrong with one
table_formats    how Parquet, CSV and JSON lines are read
table_writers    how they are written
json_lines       one object a line

pyarrow is for the three `table` files: the contract, the client and the plugin do without.
"""
