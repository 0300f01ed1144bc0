"""Mode study, config.study.name = "discriminator": the gain of a discriminator's guidance."""
