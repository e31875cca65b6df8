"""Mixed precision: which roundings cost accuracy (`sensitivity`), and which bits each layer is to have (`search`)."""
