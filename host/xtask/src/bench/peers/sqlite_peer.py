"""Does the same work with a plain Python script and sqlite3.  sqlite_peer.py TASK DATABASE CSV

Prints one JSON object: the seconds of the work itself.
"""

import csv
import json
import sqlite3
import sys
import time
from decimal import Decimal

task, database, file = sys.argv[1:]
connection = sqlite3.connect(database)
connection.execute("pragma journal_mode = wal")
COLUMNS = ["id", "first_name", "last_name", "phone", "city", "country", "birthdate", "lifetime_spend", "score", "tags", "updated_at"]


def merged(old, row):
    new = dict(zip(COLUMNS, old)) if old else dict.fromkeys(COLUMNS)
    for column in ("id", "first_name", "last_name", "country", "birthdate", "score", "updated_at"):
        if row[column]:
            new[column] = row[column]
    new["city"] = new["city"] or row["city"] or None
    new["phone"] = row["phone"] or None
    new["lifetime_spend"] = str(Decimal(new["lifetime_spend"] or 0) + Decimal(row["lifetime_spend"] or 0))
    tags = json.loads(new["tags"]) if new["tags"] else []
    for tag in filter(None, row["tags"].split("|")):
        if tag not in tags:
            tags.append(tag)
    new["tags"] = json.dumps(tags)
    return [new[column] for column in COLUMNS]


begun = time.perf_counter()
if task == "export":
    with open(file, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["email", *COLUMNS])
        writer.writerows(connection.execute(f"select email, {', '.join(COLUMNS)} from profiles"))
else:
    connection.execute(f"create table if not exists profiles (email text primary key, {', '.join(COLUMNS)}) without rowid")
    names = ", ".join(COLUMNS)
    with open(file, newline="") as source:
        for row in csv.DictReader(source):
            email = row["email"].strip().lower()
            old = connection.execute(f"select {names} from profiles where email = ?", (email,)).fetchone()
            connection.execute(
                f"insert or replace into profiles (email, {names}) values (?{', ?' * len(COLUMNS)})", (email, *merged(old, row))
            )
connection.commit()
rows = connection.execute("select count(*) from profiles").fetchone()[0]
seconds = time.perf_counter() - begun
connection.close()
print(json.dumps({"seconds": seconds, "rows": rows}))
