"""Connected accounts: managing them, importing and exporting their grants."""
