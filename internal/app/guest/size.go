package guest

// quota is the volume's size in bytes as the files tell it now: it may have
// grown since the agent was started.
func (c *config) quota() (int64, error) {
	now, err := c.again()
	if err != nil {
		return 0, err
	}
	return now.VolumeSize << 30, nil
}
