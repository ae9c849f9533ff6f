"""Does the same work with DuckDB: two threads, durable at the end.  duckdb_peer.py TASK DATABASE CSV [CSV…]

Prints one JSON object: the seconds of the work itself, without the start of the interpreter.
"""

import json
import sys
import time

import duckdb

task, database, *files = sys.argv[1:]
connection = duckdb.connect(database)
connection.execute("set threads = 2")
# Rows of one person are merged in the order of the file.
merges = task.endswith("-merged")
connection.execute(f"set preserve_insertion_order = {str(merges).lower()}")

# As the e-mail normalizer: trimmed, in lower case.
EMAIL = "lower(trim(email))"
VALUES = """id, first_name, last_name, phone, city, country, birthdate, lifetime_spend, score,
            string_split(tags, '|') as tags, updated_at"""
TYPES = """{'id': 'VARCHAR', 'email': 'VARCHAR', 'first_name': 'VARCHAR', 'last_name': 'VARCHAR', 'phone': 'VARCHAR',
            'city': 'VARCHAR', 'country': 'VARCHAR', 'birthdate': 'DATE', 'lifetime_spend': 'DECIMAL(18,2)',
            'score': 'DECIMAL(18,2)', 'tags': 'VARCHAR', 'updated_at': 'TIMESTAMPTZ'}"""
COLUMNS = ["id", "first_name", "last_name", "phone", "city", "country", "birthdate", "lifetime_spend", "score", "tags", "updated_at"]


def source(file):
    rows = f"select {EMAIL} as email, {VALUES} from read_csv('{file}', header = true, columns = {TYPES})"
    if not merges:
        return rows
    # A file may name a person more than once. As in Sluicebox, the rule of each column makes one row of them.
    one = {column: f"arg_max({column}, place)" for column in COLUMNS} | {
        "lifetime_spend": "sum(lifetime_spend)::decimal(18, 2)",
        "tags": "list_distinct(flatten(list(tags order by place)))",
        "city": "arg_min(city, place)",
        "phone": "arg_max_null(phone, place)",
    }
    columns = ", ".join(f"{one[column]} as {column}" for column in COLUMNS)
    return f"select email, {columns} from (select *, row_number() over () as place from ({rows})) group by email"


def merged(column):
    """The rule of a column, for a row `n` of the file and its profile `p`."""
    if column == "lifetime_spend":
        return "coalesce(p.lifetime_spend, 0) + coalesce(n.lifetime_spend, 0)"
    if column == "tags":
        return "list_distinct(list_concat(coalesce(p.tags, []), coalesce(n.tags, [])))"
    if column == "city":
        return "coalesce(p.city, n.city)"
    if column == "phone":
        return "case when n.email is null then p.phone else n.phone end"
    return f"coalesce(n.{column}, p.{column})"


begun = time.perf_counter()
if task in ("create", "create-merged"):
    connection.execute(f"create table profiles as {source(files[0])}")
elif task == "create-keyed":
    connection.execute(f"create table profiles as {source(files[0])} limit 0")
    connection.execute("alter table profiles add primary key (email)")
    connection.execute(f"insert into profiles {source(files[0])}")
elif task == "upsert":
    sets = ", ".join(
        {
            "lifetime_spend": "lifetime_spend = profiles.lifetime_spend + excluded.lifetime_spend",
            "tags": "tags = list_distinct(list_concat(profiles.tags, excluded.tags))",
            "city": "city = coalesce(profiles.city, excluded.city)",
        }.get(column, f"{column} = excluded.{column}")
        for column in COLUMNS
    )
    connection.execute(f"insert into profiles {source(files[0])} on conflict (email) do update set {sets}")
elif task in ("rewrite", "rewrite-merged"):
    values = ", ".join(f"{merged(column)} as {column}" for column in COLUMNS)
    connection.execute(
        f"create table rewritten as select coalesce(n.email, p.email) as email, {values} "
        f"from profiles p full outer join ({source(files[0])}) n on p.email = n.email"
    )
    connection.execute("drop table profiles")
    connection.execute("alter table rewritten rename to profiles")
elif task == "export":
    connection.execute(
        f"copy (select email, {', '.join(COLUMNS).replace('tags', chr(34) + 'tags' + chr(34))} from profiles) "
        f"to '{files[0]}' (header true)"
    )
elif task == "wide":
    connection.execute(f"create table profiles as select {EMAIL} as email, * exclude (email) from read_csv('{files[0]}', all_varchar = true)")
elif task == "linked":
    people, orders, lines = files
    connection.execute(f"create table people as from read_csv('{people}', all_varchar = true)")
    connection.execute(
        f"create table timeline as select o.customer, o.id, o.at, o.total, list(struct_pack(sku := l.sku, quantity := l.quantity)) as lines "
        f"from read_csv('{orders}', all_varchar = true) o left join read_csv('{lines}', all_varchar = true) l on l.order_id = o.id "
        f"group by all order by o.customer"
    )
connection.execute("checkpoint")
rows = 0
if task != "linked":
    rows = connection.execute("select count(*) from profiles").fetchone()[0]
seconds = time.perf_counter() - begun
connection.close()
print(json.dumps({"seconds": seconds, "rows": rows}))
