"""A row of orders.csv, "name,count,price for one", priced."""
import csv


def price(row):
    name, count, each = next(csv.reader([row.decode()]))
    return f"{name}: {int(count) * float(each):.2f}"
