"""The paper's tables, and those of other projects, beside what the models here have."""
