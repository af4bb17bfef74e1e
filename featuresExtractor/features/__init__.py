"""Read and write features of pairs: fields are checked, rows paired by name, views separated."""
