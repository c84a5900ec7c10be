"""Tables of the paper and of other projects, compared with the models here."""
