"""What `%%acp` shows: live while a turn runs (`session`), and what stays in the notebook (`transcript`, `text`)."""
