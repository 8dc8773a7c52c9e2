"""Other ways to send the error down."""

from jbp.credit.feedback import (
    FeedbackAlignment as FeedbackAlignment,
    angle as angle,
    feedback_alignment as feedback_alignment,
    transported as transported,
)
