"""The summary, the tables, the charts and the pages that show them."""
