"""Reading the features of pairs, whoever wrote them: fields checked, rows paired by name, views told apart."""
